"""Following and publishing from outside: what `curl` is not, since it does not come back.

    target    a channel's URL, asked over HTTP as `curl` would: headers, TLS, a Unix socket
    patience  when to try again, and a signal that ends the wait
    cursor    where a follower has got to, in a file
    stream    the events of a channel, over every break: `follow`
    work      what is done with an event: printed, or given to a command
    mirror    a copy of a channel on another hub, byte for byte
    pipe      a channel made of another by a command, exactly once

It knows a hub by what HTTP says, and of esource only what a row and a frame are. Everything blocks.
"""
