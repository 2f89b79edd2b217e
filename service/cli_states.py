"""`repl-ranker states`: the consumer of user states beside the rankers, as a process of its own."""

from __future__ import annotations

from service.console import Config, DataDir, TenantName, all_settings_of


def states(data_dir: DataDir = None, config: Config = None, tenant: TenantName = None) -> None:
    """Keep user states in Redis beside the rankers (user_states = beside); several share the partitions."""
    settings = all_settings_of(data_dir, config, tenant=tenant)
    import signal
    import threading

    from service.logs import set_up
    from service.memory import few_heaps
    from service.states import run
    from service.tenant_settings import settings_by_tenant, tenant_settings

    set_up(settings.log_level)
    few_heaps()
    every = list(settings_by_tenant(settings).values())
    if tenant is not None and settings.tenants:
        every = [tenant_settings(settings, tenant)]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run(every, stop)
