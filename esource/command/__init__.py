"""The commands beside `serve`: what each is called, says and takes. They load no gevent.

    command    what a command is; a line for a person; the folder that it is for
    checks     check, repair: all channels of a folder
    against    check --against: a copy next to a hub
    histories  rotate, trim, join, rm, erase: the files of one channel
    settings   config, systemd: what a hub is set to, and what starts it

What they do to files is in `esource.log`, which is loaded by the one command that is run: the table
of all of them is read before a hub is served, too.
"""
