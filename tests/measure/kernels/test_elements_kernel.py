"""The kernel that compares a few elements of each matrix: the sums of plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels import elements as some
from weibull_monitor.measure.kernels.launch import Kernels, probes
from weibull_monitor.measure.kernels.table import ELEMENTS, SUMS
from weibull_monitor.scaling import elements
from weibull_monitor.scaling.elements import ElementRows, GatheredRows, Spec, rows_of, some_of


def spec_of(p: Tensor) -> Spec:
    chosen = some_of(p, ELEMENTS).unsqueeze(0)
    offset = int(chosen.storage_offset() - p.storage_offset())
    return p, p.stride(), tuple(chosen.shape), chosen.stride(), offset


def matrices(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Dense, transposed, and in the midst of another."""
    whole = torch.randn(3, 64, 96).to(device, dtype)
    return [whole[0], whole[1].t().contiguous().t(), torch.cat([whole[2]] * 2)[32:96]]


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_the_sums_are_those_of_views(kernels: Kernels, dtype: torch.dtype) -> None:
    parameters = matrices(dtype, kernels.device)
    by_size: dict[tuple[int, ...], list[Tensor]] = {}
    for p in parameters:
        by_size.setdefault(spec_of(p)[2], []).append(p)
    pairs = []
    for of_size in by_size.values():
        specs = [spec_of(p) for p in of_size]
        places = list(range(len(specs)))
        pairs.append((ElementRows(places, specs), GatheredRows(places, specs, kernels=kernels)))
    for step in range(6):
        for p in parameters[: 1 + step % 3]:
            p.mul_(1.0 + 0.1 * step)  # a write; none at first
        for rows in (rows for pair in pairs for rows in pair):
            rows.before(step)
        parameters[step % 3].add_(0.01)
        for rows in (rows for pair in pairs for rows in pair):
            rows.after()
    for views, gathered in pairs:
        assert views.sums.shape == gathered.sums.shape == (SUMS, len(views.places))
        torch.testing.assert_close(gathered.sums, views.sums, rtol=0.02 if dtype.itemsize == 2 else 1e-5, atol=0.0)
        torch.testing.assert_close(gathered.last, views.last.flatten(1), rtol=0, atol=0)
        out = torch.zeros(2, len(views.places), 6, device=kernels.device)
        views.packed(out[0])
        gathered.packed(out[1])
        torch.testing.assert_close(out[0], out[1], rtol=0.02, atol=0.0)


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_it_is_proved_before_it_is_used(kernels: Kernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    normal = probes(dtype)[1].to(kernels.device)
    assert kernels._compares(normal)
    real = kernels.compare

    def wrong(addresses: Tensor, offsets: Tensor, *others: Any) -> None:
        real(addresses, offsets.roll(1, dims=0), *others)

    monkeypatch.setattr(kernels, "compare", wrong)
    assert not kernels._compares(normal)


def test_what_cannot_be_read_at_its_address_is_refused(kernels: Kernels) -> None:
    whole = torch.randn(64, 96, device=kernels.device)
    rows = GatheredRows([0], [spec_of(whole)], kernels=kernels)
    rows.compare(1)
    begun = rows.sums.clone()
    for other, why in (
        (whole.double(), "another dtype"),
        (whole.t().contiguous().t(), "other strides"),
        (whole[:10].clone(), "fewer elements"),
        (whole.to("meta"), "another device"),
    ):
        rows.parameters = [other]
        with pytest.raises(ValueError, match=why):
            rows.compare(2)
    rows.parameters = [whole]
    whole.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="fewer elements"):
        rows.compare(2)
    assert torch.equal(rows.sums, begun)


class Wrapper(torch.Tensor):
    """As float8 weights are: other tensors have its values, and it has no memory."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        return made

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*[arg.inner if isinstance(arg, cls) else arg for arg in args], **(kwargs or {}))


def test_a_tensor_without_memory_of_its_own_is_never_read_at_an_address(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "kernels_for", lambda device, dtype: kernels)
    plain = torch.randn(64, 96, device=kernels.device)
    wrapper = Wrapper(plain)
    assert (wrapper.data_ptr(), wrapper.untyped_storage().nbytes()) == (0, plain.nbytes)
    of_plain = spec_of(plain)
    assert isinstance(rows_of([0], [of_plain]), GatheredRows)
    rows = rows_of([0, 1], [of_plain, (wrapper, *of_plain[1:])])
    assert not isinstance(rows, GatheredRows)
    rows = rows_of([0], [of_plain])
    rows.parameters = [wrapper]
    with pytest.raises(ValueError, match="a Wrapper has no address"):
        rows.compare(1)


def test_another_stream_waits_for_the_one_before(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """With streams that only take notes: there may be no GPU here."""
    notes: list[tuple[str, ...]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            notes.append((self.name, "waits for", other.name))

    now = Stream("first")
    monkeypatch.setattr(elements, "stream_of", lambda device: now)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: notes.append(("kept for", stream.name)))
    rows = GatheredRows([0], [spec_of(torch.randn(64, 96, device=kernels.device))], kernels=kernels)
    rows.before(0)
    rows.after()
    assert notes == []
    now = Stream("second")
    rows.before(1)
    rows.after()
    assert notes == [("second", "waits for", "first"), *[("kept for", "second")] * 4]


def test_addresses_that_did_not_arrive_are_asked_for_again(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.randn(64, 96, device=kernels.device))
    rows = GatheredRows([0], [spec_of(p)], kernels=kernels)
    rows.compare(1)
    p.data = p.data.clone()

    def full(values: object) -> Tensor:
        raise MemoryError("no memory is left")

    with monkeypatch.context() as patched:
        patched.setattr(kernels, "upload", full)
        for _ in range(2):
            with pytest.raises(MemoryError):
                rows.compare(2)
    rows.compare(2)
    assert rows.begin.item() == p.data_ptr()


def test_each_program_reads_one_row_of_elements() -> None:
    assert some_of(torch.zeros(4096), ELEMENTS).numel() == ELEMENTS
    assert some.WARPS * 32 <= ELEMENTS
