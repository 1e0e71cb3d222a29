"""A wire-level simulator of Claude Managed Agents, as a self-hosted environment sees it.

Plain classes hold the semantics (`work_queue`, `session`, `inbox`, `agent`, `webhooks`); `operations` and the
`*_routes` modules serve them over HTTP. `control_routes` is the control surface for tests, the demo and
benchmarks. Start it with ``python -m managed_session_devkit.simulators.anthropic --port 0 --ready-file
FILE``.
"""
