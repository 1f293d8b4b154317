"""What `qwen-ffi bench` found, as text, JSON, Markdown or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from .bench_limits import Limit, Machine, Work, faster, scaled
from .bench_matrix import Figure
from .machine import size


@dataclass(frozen=True, slots=True)
class Row:
    """A cell of the matrix beside its limit. Rates are tokens per second, all streams together."""

    kind: str
    size: int
    name: str
    tokens_per_second: float  # the median
    minimum: float
    maximum: float
    rates: tuple[float, ...]
    bytes_per_token: float
    flops_per_token: float
    limit: float
    bound: str
    percent_of_limit: float

    @classmethod
    def of(cls, figure: Figure, work: Work, limit: Limit) -> Row:
        return cls(
            kind=figure.cell.kind,
            size=figure.cell.size,
            name=figure.cell.name,
            tokens_per_second=figure.median,
            minimum=min(figure.rates),
            maximum=max(figure.rates),
            rates=figure.rates,
            bytes_per_token=work.bytes,
            flops_per_token=work.flops,
            limit=limit.tokens_per_second,
            bound=limit.bound,
            percent_of_limit=100 * figure.median / limit.tokens_per_second,
        )


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The rows of a model, and the machine before and after them."""

    name: str
    path: str
    architecture: str
    weight_bytes: int
    dtype: str
    open_seconds: float
    own_bytes: int  # resident memory of the process at the end, that is its own: caches, scratch, Python
    mapped_bytes: int  # and that of files: weights
    before: Machine
    after: Machine
    other_cores: float | None  # that other processes used meanwhile; None: not known
    doubts: tuple[str, ...]  # why the figures are not to be trusted
    left_out: tuple[str, ...]  # rows that are longer than the context
    rows: tuple[Row, ...]

    @property
    def limits(self) -> Machine:
        return faster(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    library: str
    date: str
    cpu: str
    kernel: str
    machine: Machine  # the best of all measurements
    models: tuple[ModelReport, ...]

    @property
    def headline(self) -> str:
        machine = self.machine
        return (
            f"libqwen {self.library}, {self.date[:10]}: {self.cpu}, Linux {self.kernel}, "
            f"{machine.threads} thread{'s' * (machine.threads != 1)}, level {machine.level}, {machine.dtype}"
        )

    def remarks(self) -> Iterator[str]:
        """What has to be said besides the rows, a line each."""
        for model in self.models:
            for what, machine in (("before", model.before), ("after", model.after)):
                yield (
                    f"{model.name}: memory read at {scaled(machine.read_bytes_per_second, 'B/s')} {what}, "
                    f"arithmetic {scaled(machine.flops_per_second, 'FLOP/s')}"
                )
            yield (
                f"{model.name}: opened in {model.open_seconds:.2f} s; resident at the end: {size(model.own_bytes)} of its own, "
                f"{size(model.mapped_bytes)} of files"
            )
            if model.left_out:
                yield f"{model.name}: left out, longer than the context: {', '.join(model.left_out)}"
            for doubt in model.doubts:
                yield f"{model.name}: NOT TO BE TRUSTED: {doubt}"


def as_text(report: Report) -> str:
    lines = [report.headline]
    for model in report.models:
        lines += ["", f"{model.name}: {model.architecture}, {size(model.weight_bytes)} of weights"]
        lines.append(f"{'':<20}{'tokens/s':>10}  {'(min to max)':<22}{'limit':>9}  of it  bound by")
        for row in model.rows:
            spread = f"({_rate(row.minimum)} to {_rate(row.maximum)})"
            numbers = f"{_rate(row.tokens_per_second):>10}  {spread:<22}{_rate(row.limit):>9}"
            lines.append(f"{row.name:<20}{numbers}  {row.percent_of_limit:>3.0f} %  {row.bound}")
    return "\n".join([*lines, "", *report.remarks()]) + "\n"


def as_json(report: Report) -> str:
    value = asdict(report)
    value["machine"] = {"cpu": value.pop("cpu"), "kernel": value.pop("kernel"), **value["machine"]}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    lines = [report.headline, "", "| model | | tokens/s | min to max | limit | of it | bound by |", "|---|---|---|---|---|---|---|"]
    for model in report.models:
        for row in model.rows:
            cells = [model.name.replace("|", "\\|"), row.name, _rate(row.tokens_per_second)]
            cells += [f"{_rate(row.minimum)} to {_rate(row.maximum)}", _rate(row.limit), f"{row.percent_of_limit:.0f} %", row.bound]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in report.remarks())]) + "\n"


_OF_MODEL = ("name", "architecture", "weight_bytes", "dtype")
_OF_ROW = ("name", "kind", "size", "tokens_per_second", "minimum", "maximum")
_OF_LIMIT = ("bytes_per_token", "flops_per_token", "limit", "bound", "percent_of_limit")


def as_csv(report: Report) -> str:
    """One line per row, each with all that is needed to read it alone; trusted is 0 where there are doubts."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    of_machine = ["library", "date", "cpu", "threads", "level", "read_bytes_per_second", "flops_per_second"]
    write(["model", *_OF_MODEL[1:], *_OF_ROW, *_OF_LIMIT, *of_machine, "trusted"])
    for model in report.models:
        limits = model.limits
        machine = [report.library, report.date, report.cpu, limits.threads, limits.level]
        machine += [limits.read_bytes_per_second, limits.flops_per_second]
        for row in model.rows:
            values = [getattr(model, name) for name in _OF_MODEL] + [getattr(row, name) for name in (*_OF_ROW, *_OF_LIMIT)]
            write([*values, *machine, int(not model.doubts)])
    return out.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {"text": as_text, "json": as_json, "markdown": as_markdown, "csv": as_csv}


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
