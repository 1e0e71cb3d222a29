"""The command line: `build` builds it, `exists` answers by exit status, `name` prints the template's name."""

import argparse
import asyncio
import sys

from managed_session_worker.template import build_template, template_exists, template_name


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(description="The E2B template of managed sessions.")
    parser.add_argument("command", choices=("build", "exists", "name"))
    parser.add_argument("--name", default=template_name(), help="NAME:TAG of the template")
    options = parser.parse_args(arguments)
    if options.command == "name":
        sys.stdout.write(f"{options.name}\n")
        return 0
    if options.command == "exists":
        return 0 if asyncio.run(template_exists(options.name)) else 1
    build = asyncio.run(build_template(name=options.name, on_log=lambda line: print(line, flush=True)))
    sys.stdout.write(f"{options.name} is build {build}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
