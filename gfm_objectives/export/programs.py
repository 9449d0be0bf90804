"""torch.export programs and ONNX graphs, and how far what they say is from the model itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.export.plain import Plain
from gfm_objectives.models.encoder import Encoder

OPSET = 18


def freedoms(spec: Spec) -> dict[str, tuple[str, ...]]:
    """What of the inputs may differ from the example, the most first; what a network allows is found by trying."""
    step = _step(spec)
    return {
        "any batch and size": ("batch", "size"),
        f"any batch, sides multiples of {step}": ("batch", "step"),
        "any batch": ("batch",),
        "fixed": (),
    }


def _step(spec: Spec) -> int:
    """Pixels: sides that networks need not pad, and at least two of them in the example, for torch takes a single one
    for a constant."""
    half = max(1, spec.size // 2)
    return min(32, half & -half)


def save_program(plain: Plain, spec: Spec, path: Path) -> str:
    """Write a torch.export program (.pt2); what of its inputs is free, a key of `freedoms`."""
    example = plain.example(spec, 2, spec.size)
    failed: Exception | None = None
    for freedom, dims in freedoms(spec).items():
        try:
            with unheard():
                program = torch.export.export(plain, example, dynamic_shapes=_shapes(plain, spec, dims), strict=False)
                torch.export.save(program, path)
            if _fits(_program_runner(path), plain, spec, dims):
                return freedom
        except Exception as error:  # torch.export has no common base of its errors
            failed = _no_disk(error, path)
    raise _cannot("torch.export", failed)


def save_onnx(plain: Plain, spec: Spec, path: Path) -> str:
    """Write an ONNX graph; what of its inputs is free, a key of `freedoms`.

    Where an encoder of ours is inside, sides are multiples of a step: with sides of any length torch simplifies the
    formulas of its shapes for minutes, so for about one. Such an encoder is traced here, once; a U-Net by the exporter,
    whose trace leaves it more freedom.
    """
    _need_onnx()
    example, failed = plain.example(spec, 2, spec.size), None
    ours = any(isinstance(m, Encoder) for m in plain.model.modules())
    for freedom, dims in freedoms(spec).items():
        if ours and "size" in dims:
            continue
        try:
            with unheard():
                shapes = _shapes(plain, spec, dims)
                traced = torch.export.export(plain, example, dynamic_shapes=shapes, strict=False) if ours else None
                torch.onnx.export(
                    traced or plain,
                    () if traced else example,
                    str(path),
                    input_names=plain.names(),
                    output_names=["output"],
                    dynamic_shapes=None if traced else shapes,
                    dynamo=True,
                    external_data=False,
                    opset_version=OPSET,
                    verbose=False,
                )
            if _fits(_onnx_runner(path, plain), plain, spec, dims):
                return freedom
        except Exception as error:  # neither do torch.onnx and onnxruntime
            failed = _no_disk(error, path)
    raise _cannot("ONNX", failed)


@contextmanager
def unheard() -> Iterator[None]:
    """What torch says of freedoms that a network does not allow, by pages, is not for whoever exports it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _no_disk(error: Exception, path: Path) -> Exception:
    """The error, unless it came of a fault of the disk, which is raised as that of `path`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        cause = cause.__cause__ or cause.__context__
    return error


def error_of_program(plain: Plain, spec: Spec, path: Path, dims: Sequence[str]) -> float:
    return _error(_program_runner(path), plain, spec, dims)


def error_of_onnx(plain: Plain, spec: Spec, path: Path, dims: Sequence[str]) -> float:
    return _error(_onnx_runner(path, plain), plain, spec, dims)


def _error(run: Callable[[Sequence[Tensor]], Tensor], plain: Plain, spec: Spec, dims: Sequence[str]) -> float:
    """The largest difference from the model on inputs it was not exported with, over the largest value."""
    worst = 0.0
    sizes = (
        [(2, spec.size)]
        + [(3, spec.size)] * ("batch" in dims)
        + [(1, 2 * spec.size)] * bool({"size", "step"} & {*dims})
    )
    for seed, (places, size) in enumerate(sizes, 1):
        given = plain.example(spec, places, size, seed)
        with torch.no_grad():
            wanted, got = plain(*given), run(given)
        if got.shape != wanted.shape:
            return float("inf")
        worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)))
    return worst


def _fits(run: Callable[[Sequence[Tensor]], Tensor], plain: Plain, spec: Spec, dims: Sequence[str]) -> bool:
    """Whether it says what the model says, to 0.1 %: a graph that was frozen to the example's sizes does not."""
    return _error(run, plain, spec, dims) < 1e-3


def _program_runner(path: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    program = torch.export.load(path).module()
    return lambda given: program(*given)


def _onnx_runner(path: Path, plain: Plain) -> Callable[[Sequence[Tensor]], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    known = {i.name for i in session.get_inputs()}

    def run(given: Sequence[Tensor]) -> Tensor:
        named = {n: t.numpy() for n, t in zip(plain.names(), given, strict=True) if n in known}
        return torch.from_numpy(session.run(None, named)[0])

    return run


def _shapes(plain: Plain, spec: Spec, dims: Sequence[str]) -> Any:
    """Dynamic shapes of the inputs, all sharing B, H and W."""
    batch: Any = Dim("batch", min=1, max=4096) if "batch" in dims else None
    h: Any = None
    w: Any = None
    if "size" in dims:
        h, w = Dim.DYNAMIC, Dim.DYNAMIC
    elif "step" in dims:
        step = _step(spec)
        h, w = (step * Dim(f"{side}_steps", min=1, max=256) for side in ("high", "wide"))

    def of(*sizes: tuple[int, Any]) -> dict[int, Any]:
        return {k: d for k, d in sizes if d is not None}

    out = []
    for name in plain.names():
        if name == "gsd" or name.endswith("_day"):
            out.append(of((0, batch)))
        elif name.endswith("_valid"):
            out.append(of((0, batch), (2, h), (3, w)))
        else:
            out.append(of((0, batch), (3, h), (4, w)))
    return (tuple(out),)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"to=onnx: needs {error.name}; pip install 'gfm-objectives[onnx]'") from None


def _cannot(what: str, error: Exception | None) -> InputError:
    first = (str(error).splitlines() or ["?"])[0][:160] if error else "what it says differs from the model"
    return InputError(f"{what}: this network cannot be exported: {first}")
