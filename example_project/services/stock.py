"""The stock service: Celery alone, on a queue of its own. It knows nothing about sagas.

Each call is safe to repeat: a reservation has the order's number as its key.
"""

import os

import redis
from celery import Celery

app = Celery("stock")
app.conf.task_default_queue = "stock"

shelf = redis.Redis.from_url(os.environ["SHELF_URL"], decode_responses=True)

#: Takes goods from the shelf for an order, once; says how many are there if they are too few.
_RESERVE = """
if redis.call('HEXISTS', 'reservations', ARGV[1]) == 1 then return -1 end
local there = tonumber(redis.call('HGET', 'shelf', ARGV[2]) or 0)
if there < tonumber(ARGV[3]) then return there end
redis.call('HINCRBY', 'shelf', ARGV[2], -ARGV[3])
redis.call('HSET', 'reservations', ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
return -1
"""

#: Puts them back, once.
_RELEASE = """
local line = redis.call('HGET', 'reservations', ARGV[1])
if not line then return end
local quantity, sku = string.match(line, '^(%d+) (.*)$')
redis.call('HINCRBY', 'shelf', sku, quantity)
redis.call('HDEL', 'reservations', ARGV[1])
"""


@app.task(name="stock.reserve", acks_late=True)
def reserve(line: dict) -> dict:
    """Reserve goods, or refuse: the second form of result is a reply of status ERROR."""
    there = shelf.eval(_RESERVE, 0, line["order_id"], line["sku"], line["quantity"])
    if there >= 0:
        return {"saga_response": {"status": 400, "content": f"only {there} of {line['sku']} left"}}
    return {"reservation_id": f"r-{line['order_id']}"}


@app.task(name="stock.release", acks_late=True)
def release(order_id: int) -> None:
    """Put the goods of a reservation back, if there is one."""
    shelf.eval(_RELEASE, 0, order_id)
