"""Places and turns: bounded, first come first served within a key, fair between keys."""

from __future__ import annotations

import asyncio
import random

import pytest

from neuralbot.server.admission import Admission, Place
from neuralbot.server.failures import Failure


def taking(admission: Admission, key: str = "", size: int = 1) -> tuple[Place, asyncio.Task[None]]:
    place = admission.enter(key)
    return place, asyncio.ensure_future(place.turn(size))


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_slots_then_places_to_wait_then_refusals() -> None:
    async def run() -> None:
        admission = Admission(slots=2, queue=3)
        places = [taking(admission) for _ in range(5)]
        await settled()
        assert [task.done() for _, task in places] == [True, True, False, False, False]
        assert [place.position for place, _ in places[2:]] == [0, 1, 2]
        with pytest.raises(Failure) as refused:
            admission.enter()
        assert refused.value.status == 503 and 1 <= (refused.value.retry_after or 0) <= 60
        places[0][0].leave()
        places[3][0].leave()  # it gives up waiting
        await settled()
        assert [task.done() for _, task in places] == [True, True, True, True, False]
        assert admission.busy == 2 and len(admission) == 3
        for place, _ in places:
            place.leave()
        await settled()
        assert (admission.busy, len(admission)) == (0, 0)

    asyncio.run(run())


def test_a_key_has_its_own_limit() -> None:
    async def run() -> None:
        admission = Admission(slots=2, queue=8, per_key=3)
        for _ in range(3):
            admission.enter("greedy")
        with pytest.raises(Failure) as refused:
            admission.enter("greedy")
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
        assert refused.value.retry_after
        admission.enter("modest")

    asyncio.run(run())


def test_a_greedy_key_does_not_hold_up_the_others() -> None:
    """Of four slots the light keys get theirs as soon as one is free, though a hundred requests wait before them."""

    async def run() -> None:
        admission = Admission(slots=4, queue=200)
        greedy = [taking(admission, "greedy") for _ in range(100)]
        light = [taking(admission, f"light {number}") for number in range(3)]
        await settled()
        assert [place.position for place, _ in light] == [0, 1, 2]
        for place, _ in greedy[:3]:
            place.leave()
        await settled()
        assert all(task.done() for _, task in light)
        assert sum(task.done() for _, task in greedy) == 4

    asyncio.run(run())


def test_one_that_needs_several_slots_is_not_passed_by() -> None:
    async def run() -> None:
        admission = Admission(slots=3, queue=9)
        first, large, small = taking(admission), taking(admission, size=8), taking(admission)
        await settled()
        assert [task.done() for _, task in (first, large, small)] == [True, False, False]
        first[0].leave()
        await settled()
        assert admission.busy == 3 and large[1].done() and not small[1].done()
        large[0].leave()
        await settled()
        assert small[1].done()

    asyncio.run(run())


def test_nothing_is_lost_whatever_comes_and_goes() -> None:
    async def run() -> None:
        chance = random.Random(0)
        admission = Admission(slots=4, queue=16)
        live: list[Place] = []
        refused = 0
        for _ in range(20000):
            if live and chance.random() < 0.5:
                live.pop(chance.randrange(len(live))).leave()
            else:
                try:
                    place, _ = taking(admission, str(chance.randrange(4)), chance.randrange(1, 7))
                    live.append(place)
                except Failure:
                    refused += 1
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            assert admission.busy <= 4 and len(admission) == len(live) <= 20
            if live:
                await settled()
                assert admission.busy, "somebody waits and nobody works"
        assert refused
        for place in live:
            place.leave()
        assert (admission.busy, admission.waiting()) == (0, [])

    asyncio.run(run())
