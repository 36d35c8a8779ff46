"""Sagas on real processes that are killed, stopped and cut off: ``python -m benchmarks chaos``.

=============  ==================================================================================
``orders``     what each saga is to do, from a seed
``schedule``   which faults there are and when, from a seed
``ledger``     what bodies did, written by bodies and by nobody else
``app``        the tasks
``stage``      the servers and workers
``injector``   carries out the schedule on the stage, and starts again what ended
``driver``     keeps sagas under way and waits for their ends
``judge``      holds the reported ends against the ledger
``verdicts``   tables and JSON
=============  ==================================================================================
"""
