"""What one task waits for."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway._internal.wakeup import Mailbox, Wakeup


@given(st.lists(st.none() | st.integers()))
def test_an_inbox_gives_what_came_in_order_however_puts_and_takes_alternate(steps):
    """A number is put, twice the same at once if it is even; None takes, if there is something."""

    async def play():
        inbox, put, taken = Mailbox(), [], []
        for step in steps:
            if step is not None and step % 2 == 0:
                inbox.put_all([step, step])
                put += [step, step]
            elif step is not None:
                inbox.put_nowait(step)
                put.append(step)
            elif not inbox.empty():
                taken += await inbox.get_all() if len(taken) % 2 else [await inbox.get()]
            assert inbox.empty() == (len(taken) == len(put))
        while not inbox.empty():
            taken.append(await inbox.get())
        assert taken == put

    asyncio.run(play())


async def test_mailbox_loses_no_item_when_a_waiter_is_canceled():
    inbox = Mailbox()
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    inbox.put_nowait("one")
    inbox.put_nowait("two")
    assert await inbox.get() == "one"
    assert await inbox.get() == "two"
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait("three")
    assert await waiting == "three"


async def test_a_signal_lets_one_pass_however_often_it_was_set():
    signal = Wakeup()
    signal.set()
    signal.set()
    await signal.wait()
    waiting = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.set()
    await waiting
