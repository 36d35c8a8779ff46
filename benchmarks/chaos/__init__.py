"""Sagas on processes that are killed, stopped and disconnected: ``python -m benchmarks chaos``.

=============  ==================================================================================
``orders``     what each saga is to do, from a seed
``shapes``     where the steps of a saga are in its plan
``schedule``   which faults there are and when, from a seed
``ledger``     what bodies did, written only by bodies
``app``        the tasks
``stage``      the servers and workers
``injector``   carries out the schedule on the stage, and starts again what ended
``driver``     starts sagas and waits for their ends
``verdict``    compares the reported ends with the ledger
``report``     tables and JSON
=============  ==================================================================================
"""
