from __future__ import annotations

from gateway.core.lazy_heap import LazyHeap


class Stamped:
    def __init__(self, stamp):
        self.stamp = stamp


def test_the_smallest_that_lives():
    heap = LazyHeap()
    requests = [Stamped(n + 1) for n in range(5)]
    for order, request in zip([3, 1, 2, 1, 0], requests, strict=True):
        heap.push(order, request=request)
    assert heap.top() is requests[4]
    requests[4].stamp = 0
    heap.discarded()
    assert heap.top() is requests[1]
    assert (heap.num_alive, set(heap)) == (4, set(requests[:4]))


def test_an_earlier_stay_is_not_taken_for_a_later_one():
    heap = LazyHeap()
    request = Stamped(1)
    heap.push(0, request=request)
    request.stamp = 2
    heap.discarded()
    heap.push(9, request=request)
    other = Stamped(3)
    heap.push(5, request=other)
    assert heap.top() is other


def test_the_dead_do_not_outnumber_the_living_by_more_than_a_constant():
    heap = LazyHeap()
    heap.push(-1, request=Stamped(-1))
    for n in range(10_000):
        request = Stamped(n + 1)
        heap.push(n, request=request)
        request.stamp = 0
        heap.discarded()
    assert len(heap._entries) < 100
    assert heap.num_alive == 1


def test_empty():
    heap = LazyHeap()
    assert heap.top() is None
    assert list(heap) == []
