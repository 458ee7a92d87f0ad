"""What client and worker say to each other.

Standard library only, and written so that any Python 3.8 can at least read it: a worker of the wrong version must be
able to say so.

Layout of a job in storage, below its container (or the prefix inside a container that was given):

    worker/<sha256>.pyz      the worker, staged on each node by the job's preparation task
    code/<sha256>            a callable: frames (pickle, out-of-band buffers); every chunk that uses it names the hash
    source/<sha256>.zip      the user's own modules
    data/<sha256>            one large out-of-band buffer
    files/listing/<sha256>   a set of files: their places, hashes, and which blob has which content (`files`)
    files/bundle/<number>    contents of small files, one after the other
    files/content/<sha256>   the content of a larger file
    manifest/<call>          signed: one `map` call: function, item count, chunk bounds
    in/<pack>                signed chunks one after the other; its first envelope is the index of what it holds
    out/<shelf>/<chunk>.<generation>   the signed result of a chunk, and behind it the files of its items; written once
    log/<chunk>.<generation> signed crash report, then whole standard output and error

A *chunk* is some items of one call, run by one task. A *generation* counts the tasks that we made for it. A *shelf* is
the common prefix of up to SHELF_CHUNKS consecutive chunks' results, so that watching costs requests by the shelf.

Every signed blob is an envelope (`envelope`), bound by its MAC to kind, job, chunk and generation under the job's key,
which travels in the job's environment settings (`names`) and never in storage.
"""
