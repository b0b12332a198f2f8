"""The benchmark: `python -m bench`. `bench/README.md` says how to run and read it.

Low to high, as the hub's own house:

    figures      a sample, a case, and what is said about them
    scale        how large and how long: full, quick, tiny
    cpu          who was busy
    machine      where it ran, and with which versions
    uncounted, without
                 the settings of a hub that counts nothing, and of one with a trick less
    message      where a request or an answer ends
    bare, constant
                 the least that gunicorn can do, and gevent
    servers      the hub and its baselines, each on a port of its own
    publishers   who sends: ab, wrk, redis-benchmark, and two of this process
    connections  who sends: many connections of this process
    subscribers  who listens: `sse_clients.c`
    publishing, behind, pipelined, beside, tricks, fanout, returning, counting, reading,
    history, engine, growing, ingest, hostile
                 the workloads
    plots        pictures of a run
    failover     what is lost when an engine's primary dies: a program of its own
    __main__     the command line
"""
