"""Wire-level simulator of Claude Managed Agents, as far as a self-hosted environment sees it.

Plain classes hold the semantics (`work_queue`, `session`, `inbox`, `agent`, `webhooks`); `operations` and the
`*_routes` modules put them on HTTP; `control_routes` is the surface that tests, the demo and benchmarks use.
Start it with ``python -m managed_session_local.simulators.anthropic --port 0 --ready-file FILE``.
"""
