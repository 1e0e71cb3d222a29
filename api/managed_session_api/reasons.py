"""Explains each reason of a condition or an Event: what it means, and what to do about it.

`docs/conditions.md` is generated from this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from managed_session_api.conditions import Reason


@dataclass(frozen=True)
class ReasonDoc:
    """The meaning of a reason, and what to do about it."""

    meaning: str
    remedy: str


_NONE = "None."
_PASSES = "None; resolves automatically."

REASONS: dict[Reason, ReasonDoc] = {
    Reason.IDLE: ReasonDoc("No work is queued. The next message will be served.", _NONE),
    Reason.RUNNING: ReasonDoc("A worker is serving the session.", _NONE),
    Reason.PROVISIONING: ReasonDoc("The sandbox is being created or resumed.", _PASSES),
    Reason.AWAITING_CLAIM: ReasonDoc(
        "Anthropic announced that the session runs, but the queue has not offered its work yet.",
        "None at first. If this persists, check whether another worker or installation polls the same "
        "environment.",
    ),
    Reason.AWAITING_MESSAGE: ReasonDoc("The session exists, but has not received a message yet.", _NONE),
    Reason.AWAITING_USER: ReasonDoc(
        "The worker waits for the session's user: to confirm a tool call with the permission `ask` "
        "(`user.tool_confirmation`), or to return the result of a custom tool "
        "(`user.custom_tool_result`). The message names the call and when the wait began. After "
        "`pauseWhileWaitingSeconds` the sandbox is paused and frees its slot; the answer resumes it.",
        "Answer the call, or send `user.interrupt` to end the turn.",
    ),
    Reason.AWAITING_LEASE: ReasonDoc(
        "The worker ended without giving its lease back. The queue offers the work again when the lease "
        "expires, after at most five minutes.",
        "None; resolves automatically. `worker.log` in the sandbox (`managed-sessions logs SESSION`) shows "
        "why the worker ended.",
    ),
    Reason.AWAITING_CAPACITY: ReasonDoc(
        "Work is queued, but no sandbox slot is free, or E2B currently allows fewer running sandboxes than "
        "the setting, or the rate at which sandboxes may be created is reached. The message shows the queue "
        "position. The oldest work is served first; the rest waits in Anthropic's queue.",
        "None; resolves automatically. If this is common, raise MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES and "
        "the E2B plan, or lower `maxIdleSeconds` so that idle workers free their slots sooner.",
    ),
    Reason.BUDGET_REACHED: ReasonDoc(
        "A budget is used up; the message says which. Either Anthropic paused the session, because it has "
        "used up its own budget or uses a model without a list price. Or the sessions of its class were "
        "active today (UTC) for as long as the class's `maxActiveSecondsPerDay` allows. The sandbox is "
        "paused with its files, and queued work waits. A class with this reason starts no worker for now.",
        "Raise the session's budget at Anthropic, or remove it. For a class's budget, wait until 00:00 UTC "
        "or raise `spec.limits.maxActiveSecondsPerDay` of the class. The sessions then continue by "
        "themselves.",
    ),
    Reason.AMBIGUOUS_CLASS: ReasonDoc(
        "Several ManagedSessionClasses with the same, highest precedence match the session, so none is "
        "chosen and the session is not started. The message names them. A session that one of them already "
        "serves keeps it.",
        "Give one of the classes a higher `spec.precedence`, or narrow a selector so that only one matches. "
        "The session then starts by itself.",
    ),
    Reason.LOCKED_FIELD: ReasonDoc(
        "The session sets fields that its class locks. The class's values are used instead. The message "
        "names the fields.",
        "Remove the fields from the session's `spec`, or from `spec.locked` of the class.",
    ),
    Reason.CLASS_CHANGED: ReasonDoc(
        "The session's class has changed, or is another one now, and the session's sandbox still has older "
        "values of the fields that the message names. A sandbox that exists cannot get the new values.",
        "None; the next sandbox gets the new values. To apply them at once, delete the resource: the next "
        "message starts with a new sandbox, and the session's files are lost.",
    ),
    Reason.TURN_TOO_LONG: ReasonDoc(
        "The turn has lasted longer than its class's `maxTurnSeconds`. With the optional credential "
        "`anthropic-api-key`, the operator has sent `user.interrupt`. Without it, the operator has ended "
        "the turn's worker.",
        "After an interrupt, send the next message. Without the credential, send the session "
        "`user.interrupt` with a Claude API key. If such long turns are intended, raise "
        "`spec.limits.maxTurnSeconds` of the class.",
    ),
    Reason.READY: ReasonDoc(
        "The class is in force for the sessions that it matches.",
        _NONE,
    ),
    Reason.AMBIGUOUS: ReasonDoc(
        "Sessions match this class and another one with the same, highest precedence. They are not started. "
        "The message names the other classes.",
        "Give one of the classes a higher `spec.precedence`, or narrow a selector so that only one matches.",
    ),
    Reason.INVALID: ReasonDoc(
        "The operator cannot use the class, so it matches no session. The message names the field.",
        "Correct the field that the message names. If a newer version added the field, upgrade the operator.",
    ),
    Reason.GUARANTEES_REDUCED: ReasonDoc(
        "The classes together guarantee more slots than the installation has, so each guarantee is reduced "
        "in proportion. The message gives the number that this class gets.",
        "Lower `spec.limits.guaranteedSlots` of the classes, or raise MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES "
        "and the E2B plan.",
    ),
    Reason.STARTING_WORKER: ReasonDoc("The work is acknowledged and the worker is starting.", _PASSES),
    Reason.SUSPENDED: ReasonDoc(
        "`spec.lifecycle.suspend` is true, or the class that the message names suspends the session: the "
        "sandbox is paused, and the session is not served.",
        "Set `spec.lifecycle.suspend` to false to serve the session again.",
    ),
    Reason.NO_SANDBOX: ReasonDoc("The session has no sandbox yet.", _NONE),
    Reason.SANDBOX_RUNNING: ReasonDoc("The sandbox is running and is billed.", _NONE),
    Reason.SANDBOX_PAUSED: ReasonDoc("The sandbox is paused. Its files and memory are kept.", _NONE),
    Reason.SANDBOX_VANISHED: ReasonDoc(
        "E2B no longer has the sandbox that held the session's files.",
        "Check whether the sandbox or its template was deleted, or the E2B key was replaced by another "
        "team's. If E2B has the sandbox again, the next turn uses it, and `WorkspaceLost` becomes False. "
        "Otherwise the files are lost. With `onSandboxLost: Recreate`, the next turn starts with an empty "
        "sandbox. With `Fail`, delete the resource to start again.",
    ),
    Reason.WORKSPACE_ROLLED_BACK: ReasonDoc(
        "A pause failed in E2B, or the sandbox crashed. The sandbox went back to the state that an earlier "
        "pause had saved.",
        "Everything that the session wrote after the time in the message is lost; earlier files are kept. "
        "Ask the agent to repeat that part.",
    ),
    Reason.SANDBOX_CREATE_FAILED: ReasonDoc(
        "E2B could not create the sandbox. The operator keeps trying.",
        "If this persists, read the message and check E2B's status page.",
    ),
    Reason.SANDBOX_RESUME_FAILED: ReasonDoc(
        "E2B could not resume the session's paused sandbox, or connect to the running one. The operator "
        "keeps trying. The session's files are kept.",
        "If this persists, read the message and check E2B's status page. To start again without the files, "
        "delete the resource.",
    ),
    Reason.SANDBOX_UNREACHABLE: ReasonDoc(
        "The sandbox exists, but does not answer. The operator keeps trying.",
        "If this persists, read the message. To start again without the files, delete the resource.",
    ),
    Reason.SANDBOX_DISK_FULL: ReasonDoc(
        "The agent has filled the sandbox's disk, including the space reserved for the worker, so that no "
        "worker can start. The operator keeps trying.",
        "Remove files from the sandbox with E2B's tools. To start again without the files, delete the "
        "resource.",
    ),
    Reason.PREPARING: ReasonDoc(
        "What the session's policy asks for is being done in the sandbox, before the worker starts. The work "
        "stays in the queue meanwhile.",
        _PASSES,
    ),
    Reason.PREPARATION_FAILED: ReasonDoc(
        "The sandbox could not be prepared for the session. The message names the cause. The work stays in "
        "the queue, and the operator tries again at least every two minutes.",
        "Correct what the message names.",
    ),
    Reason.REFERENCE_INVALID: ReasonDoc(
        "The session's policy refers to a Secret or ConfigMap that does not exist or may not be used. The "
        "message names it. The work stays in the queue, and the operator tries again at least every two "
        "minutes.",
        "Create the Secret or ConfigMap with that key in the session's namespace, or correct the reference. "
        "The session then goes on by itself.",
    ),
    Reason.SETUP_FAILED: ReasonDoc(
        "A step of the session's `setup`, or its hook `onCreate`, failed. The message names the step, such "
        "as `setup.repositories[0]`, the cause, and the end of its output. The work stays in the "
        "queue. The operator tries again at least every two minutes, and at once when the session or class "
        "changes; after a few tries the sandbox is paused in between. If the setup was only to be repeated "
        "in a sandbox that has had one (`rerunOnChange`), the session goes on, and this is the reason of the "
        "condition `SetupFailed` and of an Event.",
        "Correct what the message names: the policy, the Secret or ConfigMap, the session's metadata, or the "
        "server. Steps that are done are not repeated.",
    ),
    Reason.HOOK_FAILED: ReasonDoc(
        "One of the hooks `afterResume`, `beforePause` and `beforeKill` failed or took too long. The message "
        "names it, with the end of its output. The session goes on.",
        "Correct the hook's command, or give it more time with `timeoutSeconds`.",
    ),
    Reason.MEMORY_STORE_FAILED: ReasonDoc(
        "A memory store of the session could not be mounted, or something that the agent wrote into it could "
        "not be uploaded. The message names the store and the cause. It goes away after the next turn in "
        "which everything is synced.",
        "See [memory stores](memory.md#when-a-store-fails): what each cause means, and where the files are.",
    ),
    Reason.OUTPUTS_FAILED: ReasonDoc(
        "At the end of a turn, files of `/mnt/session/outputs` could not be copied to the bucket that "
        "`spec.sandbox.outputs` names, or not in time. The message has the cause. The files are still in the "
        "sandbox, and the end of the next turn copies them.",
        "Correct what the message names: the bucket, its key, or the policy.",
    ),
    Reason.MOUNT_FAILED: ReasonDoc(
        "A bucket, a disk or a volume of the session cannot be used in the sandbox. The message has its "
        "place, the cause, and the end of what the mount's program wrote. The work stays in the queue, and "
        "the operator tries again at least every two minutes. While a worker serves the session, this is "
        "only an Event.",
        "Correct what the message names: the Secret, the bucket's name, the network rules, or the template, "
        "if it has no s3fs, gcsfuse or archil ([Storage](storage.md)). The session then goes on by itself.",
    ),
    Reason.VOLUME_UNAVAILABLE: ReasonDoc(
        "E2B cannot give the session's sandbox a volume: volumes are not enabled for the E2B team, or the "
        "team has no volume of that name. The message says which. The work stays in the queue, and the "
        "operator tries again at least every two minutes.",
        "Ask E2B to enable volumes for the team (they are a private beta), create the volume, or set "
        "`create` in the entry of `spec.sandbox.volumes`. The session then goes on by itself.",
    ),
    Reason.SKILL_MISSING: ReasonDoc(
        "The sandbox lacks the current version of a skill of the session's agent. The message names the "
        "skill and the cause: it could not be downloaded, it exceeds a limit in the operator's settings, or "
        "its archive is not safe to unpack. The turn continues without the skill or with its earlier "
        "version. The next turn tries again.",
        "Correct the skill, or raise the limit that the message names.",
    ),
    Reason.SECRET_HOST_DENIED: ReasonDoc(
        "The network policy does not let the sandbox reach the host of a secret. That happens where the "
        "class locks `network` and the session itself declares the secret, or where the class's preset is "
        "`closed`.",
        "Add the host to `network.allow` of the class, or declare the secret in the class.",
    ),
    Reason.GUEST_UNRESPONSIVE: ReasonDoc(
        "The sandbox's operating system stopped responding to E2B, and the sandbox was rebooted from its "
        "disk. Files are kept. Background processes, and data not yet written to disk, are lost.",
        "Ask the agent to restart its background processes. If this is common, give the sandbox more memory "
        "or CPU.",
    ),
    Reason.PAUSE_FAILED: ReasonDoc(
        "The sandbox could not be paused. The operator keeps trying. If it does not succeed, E2B pauses the "
        "sandbox when its countdown ends, which limits the cost.",
        _PASSES,
    ),
    Reason.TEMPLATE_NOT_FOUND: ReasonDoc(
        "The E2B team of the API key has no template of this name.",
        "Run `managed-sessions template build` with that key in E2B_API_KEY, or correct "
        "`spec.sandbox.template` or the setting MANAGED_SESSIONS_TEMPLATE.",
    ),
    Reason.SANDBOX_CREDENTIAL_REJECTED: ReasonDoc(
        "E2B rejected the API key.",
        "Store a valid key of the same team in the operator's credential `e2b-api-key`.",
    ),
    Reason.SANDBOX_REQUEST_REJECTED: ReasonDoc(
        "E2B rejected the request as invalid.", "Correct the field of `spec.sandbox` that the message names."
    ),
    Reason.SANDBOX_QUOTA_EXCEEDED: ReasonDoc(
        "E2B refused to run this session's sandbox, because the limit of running sandboxes is reached. The "
        "session keeps its queue position. Other waiting sessions report `AwaitingCapacity`.",
        "None; resolves automatically. If this is common, lower MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES to the "
        "number that the E2B plan leaves for this installation, or upgrade the plan.",
    ),
    Reason.SANDBOX_RATE_LIMITED: ReasonDoc(
        "E2B refused a call because too many requests were sent within its time window. No sandbox is "
        "created or resumed until the window has passed. As many sandboxes as before may run.",
        "None; resolves automatically. If this is common, lower MANAGED_SESSIONS_SANDBOX_CREATION_RATE, or "
        "find out what else sends requests with the E2B team's keys.",
    ),
    Reason.ENVIRONMENT_CREDENTIAL_REJECTED: ReasonDoc(
        "Anthropic rejected the environment key.",
        "Generate a new key for the environment in the Claude Console, and store it in the operator's "
        "credential `anthropic-environment-key`.",
    ),
    Reason.ENVIRONMENT_UNREACHABLE: ReasonDoc(
        "Anthropic's API did not answer. The operator keeps trying.",
        "If this persists, check whether the operator's pods can reach Anthropic: network policies, proxy, "
        "and Anthropic's status page.",
    ),
    Reason.ENVIRONMENT_RATE_LIMITED: ReasonDoc(
        "Anthropic refused a call because its rate limit is reached. The operator repeats the call after "
        "the time that Anthropic asks for (`Retry-After`).",
        "None; resolves automatically. If this is common, find out what else uses the organization's rate "
        "limit, or ask Anthropic to raise it.",
    ),
    Reason.ENVIRONMENT_REQUEST_REJECTED: ReasonDoc(
        "Anthropic rejected a call of the operator. The message names the call and Anthropic's reason. The "
        "operator tries again at least every two minutes.",
        "Correct what the message names. If it names nothing that you can correct, the operator may be too "
        "old for Anthropic's API: upgrade it, and report the message.",
    ),
    Reason.ENVIRONMENT_UNAVAILABLE: ReasonDoc(
        "The environment's work queue answers every poll with 404 or rejects it: the environment may have "
        "been archived or deleted. The same appears as an Event of the operator's Lease.",
        "Check the environment in the Claude Console. If it is archived or deleted, store the ID and the key "
        "of another environment in the operator's credentials. Sessions of the old environment are no "
        "longer served.",
    ),
    Reason.CREDENTIAL_MISSING: ReasonDoc(
        "The operator lacks a credential that it needs.",
        "Add the credential that the message names to the Secret `managed-session-operator`.",
    ),
    Reason.NO_SESSION_TOKEN: ReasonDoc(
        "The environment's work came without a session token. By default, sandboxes do not get the "
        "environment key instead.",
        "Use an environment that issues session tokens. To give the environment key to sandboxes, see "
        "docs/security.md.",
    ),
    Reason.WORKER_START_FAILED: ReasonDoc(
        "The worker could not be started in the sandbox. The operator tries a limited number of times.",
        "Read the message, and `worker.log` in the sandbox (`managed-sessions logs SESSION`). If the session "
        "accepts no more messages, send it `user.interrupt`.",
    ),
    Reason.WORKER_ENDED_IN_CALL: ReasonDoc(
        "The worker ended during a tool call without giving its lease back. The next worker runs the call "
        "again. The message shows how often this has happened and what ended the worker.",
        "For `out of memory`, use a template with more memory, or ask the agent to do less at once. For "
        "other causes, inspect the call in the session's events.",
    ),
    Reason.TOOL_CALL_GIVEN_UP: ReasonDoc(
        "The tool call has ended as many workers as MANAGED_SESSIONS_TOOL_CALL_ATTEMPTS allows. The next "
        "worker answers the call with an error that says so, and the agent continues.",
        "See `WorkerEndedInCall`. Note that the call was run that many times, so some of its effects may "
        "have happened as often.",
    ),
    Reason.WORK_LOST: ReasonDoc(
        "The work was stopped, or another worker took it, before the session's worker had started.",
        "Send the session another message. If it accepts no message, send `user.interrupt`.",
    ),
    Reason.WORK_STRANDED: ReasonDoc(
        "The session's work was acknowledged, but no worker was started for it, for example because a "
        "process crashed. The queue does not offer such work again. The operator stops the work item.",
        "Send the session `user.interrupt` with a Claude API key, then repeat the message if you still need "
        "it. With the optional credential `anthropic-api-key`, the operator sends the interrupt itself.",
    ),
    Reason.SESSION_STUCK: ReasonDoc(
        "The turn is not over, but the session has neither a worker nor queued work, so it cannot continue "
        "by itself. The message says what the session waits for.",
        "Send the session `user.interrupt` with a Claude API key, then repeat the message if you still need "
        "it. If that has no effect, archive the session. With the optional credential `anthropic-api-key`, "
        "the operator sends the interrupt itself, at most MANAGED_SESSIONS_RECOVERY_ATTEMPTS times in a row.",
    ),
    Reason.RECOVERING: ReasonDoc(
        "The session was stuck. The operator sent `user.interrupt` and waits for the session's work.",
        "None; resolves automatically, or becomes `SessionStuck`.",
    ),
    Reason.RETRYING: ReasonDoc(
        "Somebody asked to try the session again (`spec.requests.retry`). The operator does so, without "
        "waiting for the time of its next try.",
        "None; the next reason says how the session is.",
    ),
    Reason.API_KEY_REJECTED: ReasonDoc(
        "The session is stuck, and Anthropic rejected the API key with which the operator tried to interrupt "
        "it.",
        "Store a valid key in the operator's credential `anthropic-api-key`, or remove it and send "
        "`user.interrupt` yourself.",
    ),
    Reason.SESSION_INTERRUPTED: ReasonDoc(
        "The operator sent `user.interrupt` to a stuck session. The stuck turn ended without an answer.",
        "Repeat the message if you still need it. The operator never sends messages.",
    ),
    Reason.SESSION_ENDED: ReasonDoc(
        "The session was terminated, archived or deleted.",
        "None; the resource is deleted after `ttlSecondsAfterEnd`.",
    ),
    Reason.DUPLICATE_SESSION: ReasonDoc(
        "An older resource exists for the same session, and only that one is used.",
        "Delete this resource or the older one.",
    ),
    Reason.ENVIRONMENT_MISMATCH: ReasonDoc(
        "The resource belongs to an environment that this installation does not serve.",
        "Delete the resource, or create it in the installation that serves the environment.",
    ),
    Reason.CLEANUP_BLOCKED: ReasonDoc(
        "The sandbox could not be killed, so the resource is kept. The operator keeps trying.",
        "Read the message. To force the deletion, remove the finalizer managedagents.dev/sandbox yourself: "
        "a resync kills the sandbox once E2B answers again.",
    ),
    Reason.KUBERNETES_CALL_FAILED: ReasonDoc(
        "The API server rejected a call of the operator or did not answer it. The operator keeps trying.",
        "If this persists, read the operator's log, and compare its Roles in the cluster with those in "
        "deploy/.",
    ),
    Reason.ENVIRONMENT_SHARED: ReasonDoc(
        "Another installation or worker polls the same environment, so that a session's turns may alternate "
        "between two sandboxes. Reported by an Event of the operator's Lease and by the metric "
        "`managed_sessions_environment_shared`, which returns to 0 once the other one has stopped.",
        "Give each installation its own environment, and stop other workers that poll this one.",
    ),
    Reason.WEBHOOK_SILENT: ReasonDoc(
        "Webhook events no longer arrive, although they did before: the operator has found all newer turns "
        "by polling. Turns begin later, and ended sessions are noticed late. Reported by an Event and an "
        "annotation of the operator's Lease, and by the metric `managed_sessions_webhook_silent`, until an "
        "event announces a turn again.",
        "Check in the Claude Console whether the webhook endpoint is enabled and its deliveries succeed: "
        "something between Anthropic and the webhook may refuse them. If you no longer use the webhook, set "
        "`MANAGED_SESSIONS_WEBHOOK_SILENCE_TURNS` to 0.",
    ),
    Reason.CLAIMED: ReasonDoc("The operator claimed the session's work from the queue.", _NONE),
    Reason.SANDBOX_CREATED: ReasonDoc("The session's sandbox was created.", _NONE),
    Reason.SANDBOX_RESUMED: ReasonDoc("The session's sandbox was resumed.", _NONE),
    Reason.SANDBOX_ROLLED_OVER: ReasonDoc(
        "The sandbox was paused and resumed under its running worker, before E2B's limit on running time "
        "ended. The worker continues.",
        _NONE,
    ),
    Reason.SANDBOX_KILLED: ReasonDoc("The session's sandbox was killed.", _NONE),
    Reason.SANDBOX_ACCESSED: ReasonDoc(
        "A person reached into the session's sandbox with `managed-sessions shell`, `cp` or `outputs`. The "
        "message says who, and what kind of access. It never has names of files or commands.",
        _NONE,
    ),
    Reason.SNAPSHOT_TAKEN: ReasonDoc("A snapshot of the session's sandbox was taken.", _NONE),
    Reason.SNAPSHOT_FAILED: ReasonDoc(
        "A snapshot of the sandbox could not be taken. The sandbox and the session are not affected.",
        "Read the message. A requested snapshot is tried again, at growing intervals of up to an hour. To "
        "give it up, remove `spec.requests.snapshot`. If the deletion of the resource waits for its "
        "snapshot, `spec.lifecycle.deletionPolicy: Delete` lets it go on without one.",
    ),
    Reason.SNAPSHOT_NOT_FOUND: ReasonDoc(
        "E2B does not have the snapshot from which the sandbox was to be created.",
        "Correct `spec.sandbox.fromSnapshot`, or remove it to start from the template. After a restore that "
        "failed, the session goes on in the sandbox that it had; ask for another snapshot "
        "(`managed-sessions snapshot SESSION --list`).",
    ),
    Reason.SNAPSHOT_RETAINED: ReasonDoc(
        "The resource was deleted with `deletionPolicy: Retain`. The message names the snapshot that has the "
        "session's files.",
        "Use it with `managed-sessions retained`, or delete it there: E2B bills its storage.",
    ),
    Reason.SNAPSHOT_IN_USE: ReasonDoc(
        "A snapshot of the deleted session was kept, because another sandbox was created from it.",
        "Delete it with `managed-sessions retained` once that sandbox is gone.",
    ),
    Reason.SANDBOX_RESTORED: ReasonDoc(
        "The session's sandbox was brought back to a snapshot. Its former sandbox was killed.", _NONE
    ),
    Reason.WORKER_STARTED: ReasonDoc("A worker started and sent its first heartbeat.", _NONE),
    Reason.SERVING_LATE_MESSAGE: ReasonDoc(
        "A message arrived while the session's work was being stopped, and Anthropic queued no work for it. "
        "The worker serves the message to its end, without a lease.",
        _NONE,
    ),
    Reason.WORKER_FINISHED: ReasonDoc("The worker ended. The message gives the reason.", _NONE),
}
"""The meaning and remedy of each reason."""
