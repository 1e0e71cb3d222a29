"""What runs outside the server process: the zygote and one small init per sandbox. Standard library only."""
