"""Counts what sessions cost, by class and agent, in the operator's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

OTHER = "other"
"""Label of the agents that have none of their own."""


class CostMetrics:
    """Counters of cost. They grow with the writes that record a cost, so that each is counted once.

    Args:
        registry: where the counters are registered.
        agents: how many agents get a label of their own. Agents that come later count as `other`.
    """

    def __init__(self, registry: CollectorRegistry, agents: int = 50) -> None:
        def counter(name: str, meaning: str) -> Counter:
            labels = ["session_class", "agent"]
            return Counter(f"managed_sessions_{name}", meaning, labels, registry=registry)

        self._list_cost = counter(
            "list_cost_dollars", "What sessions cost at Anthropic's list prices, in US dollars."
        )
        self._active = counter("active_seconds", "Seconds for which sessions were running at Anthropic.")
        self._sandbox = counter("sandbox_seconds", "Seconds for which sandboxes have run.")
        self._most_agents = agents
        self._agents: set[str] = set()

    def add(
        self,
        session_class: str,
        agent: str,
        *,
        list_cost: int = 0,
        active_seconds: int = 0,
        sandbox_seconds: int = 0,
    ) -> None:
        """Add what a session has cost. Without a cost, the counters begin at 0, so that none is missed.

        Args:
            session_class: the session's class, "" for none.
            agent: the session's agent, "" if it is not known yet.
            list_cost: cents.
            active_seconds: seconds at Anthropic.
            sandbox_seconds: seconds at E2B.
        """
        labels = session_class, self._label(agent)
        self._list_cost.labels(*labels).inc(list_cost / 100)
        self._active.labels(*labels).inc(active_seconds)
        self._sandbox.labels(*labels).inc(sandbox_seconds)

    def _label(self, agent: str) -> str:
        if agent and agent not in self._agents and len(self._agents) >= self._most_agents:
            return OTHER
        if agent:
            self._agents.add(agent)
        return agent
