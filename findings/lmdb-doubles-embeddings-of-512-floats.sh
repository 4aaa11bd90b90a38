#!/usr/bin/env bash
# In LMDB an embedding of 512 float32 takes twice its size, one of 500 does not.
#
# Versions:   lmdb 3.0.0 (bundles LMDB 0.9)
# Behaviour:  pages hold 4096 bytes. An entry of up to about 2030 bytes shares a page with another; a larger one goes
#             to pages of its own, with a header of 16 bytes: 2048 bytes take 4096, and 4096 bytes take 8192. 2000 and
#             4080 bytes take hardly more than their size.
# Surprise:   powers of two are thought of as what fits pages best; here 2048, 4096 (and 8192: three pages) are the
#             worst sizes there are.
# Cost:       2.0 times the disk and page cache for the commonest embedding (512 float32, or 1024 or 2048 float16) and
#             for 64 x 64 uint8 patches; 1.5 times for 2048 float32. Several embeddings in a value, or a memmap, cost
#             nothing.
# Source:     lib/mdb.c: me_nodemax is about half a page; OVPAGES adds the page header (PAGEHDRSZ, 16 bytes) before
#             rounding up.
# Seen:       bytes on disk per byte stored: 2000: 1.03, 2048: 2.02, 4080: 1.01, 4096: 2.01, 8192: 1.50.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lmdb==3.0.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import os

import lmdb


def cost(size, rows=1000):
    """Bytes on disk per byte stored."""
    environment = lmdb.open(f"values-{size}", map_size=1 << 28)
    with environment.begin(write=True) as transaction:
        for row in range(rows):
            transaction.put(b"%05d" % row, bytes(size), append=True)
    page, pages = environment.stat()["psize"], environment.info()["last_pgno"] + 1
    environment.close()
    assert os.stat(f"values-{size}/data.mdb").st_size >= (pages - 1) * page
    assert page == 4096, f"pages of {page} bytes here: the sizes below are for 4096"
    return pages * page / (rows * size)


costs = {size: round(cost(size), 2) for size in (2000, 2048, 4080, 4096, 8192)}
print(costs)
assert costs[2000] < 1.1 and costs[4080] < 1.1
assert costs[2048] > 1.9 and costs[4096] > 1.9
assert 1.4 < costs[8192] < 1.6
PYTHON
