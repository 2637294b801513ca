"""Tests of the second process that shares the reading of records."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import pytest

from harness.results.second_process import SecondProcess, map_parts
from parts import doubled, killed, refused


def test_both_processes_compute_and_the_order_stays() -> None:
    with SecondProcess(cores=2) as second:
        for _ in range(2):
            results = list(map_parts(doubled, range(50), second))
            assert [value for value, _ in results] == list(range(0, 100, 2))
            processes = {process for _, process in results}
            assert os.getpid() in processes
            assert len(processes) == 2
    assert not multiprocessing.active_children()


def test_one_core_has_one_process() -> None:
    with SecondProcess(cores=1) as second:
        assert {process for _, process in map_parts(doubled, range(9), second)} == {os.getpid()}
    assert list(map_parts(doubled, range(3))) == [(0, os.getpid()), (2, os.getpid()), (4, os.getpid())]


def test_what_an_ended_process_does_not_return_is_computed_here() -> None:
    with SecondProcess(cores=2) as second:
        assert list(map_parts(killed, range(20), second)) == list(range(0, 40, 2))
        assert list(map_parts(killed, range(20), second)) == list(range(0, 40, 2))


def test_results_do_not_pile_up() -> None:
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for part in range(9):
            taken.append(part)
            yield part

    for count, (value, _) in enumerate(map_parts(doubled, parts()), 1):
        assert value == 2 * (count - 1)
        assert len(taken) == count


def test_an_error_of_the_second_process_is_raised() -> None:
    with SecondProcess(cores=2) as second, pytest.raises(ValueError, match="part 0"):
        list(map_parts(refused, range(9), second))
    assert not multiprocessing.active_children()
