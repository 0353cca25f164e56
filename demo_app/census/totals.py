"""Add the reports of all workers up into `CensusProgress`, the one record that a page needs."""

from dataclasses import dataclass

from demo_app.census.reader import TOP, FileStats, Totals, WorkerReport, largest


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker's row in the overview."""

    worker: str
    module: str
    files_done: int
    files_total: int
    percent: int


@dataclass(frozen=True, slots=True)
class CensusProgress:
    """Everything that the page shows: progress, throughput, workers, largest modules."""

    files_done: int
    files_total: int
    percent: int
    elapsed_s: float
    files_per_s: float
    lines_per_s: int
    module: str
    totals: Totals
    largest: list[FileStats]
    workers: list[WorkerRow]
    problems: list[str]


class Census:
    """Adds up the reports of all workers, in any order of arrival.

    Args:
        files_total: The number of files in all shares.
    """

    def __init__(self, files_total: int) -> None:
        self._files_total = files_total
        self._reports: dict[str, WorkerReport] = {}
        self._largest: dict[str, FileStats] = {}
        self._problems: dict[str, None] = {}  # an ordered set
        self._module = ""

    def add(self, report: WorkerReport, elapsed_s: float) -> CensusProgress:
        """Add one report and return the progress.

        A repeated report, or the reports of a restarted worker, never count twice.
        """
        known = self._reports.get(report.worker)
        if known is None or report.totals.files > known.totals.files:
            self._reports[report.worker] = report
            self._module = report.module
        rows = self._largest | {stats.module: stats for stats in report.modules}
        self._largest = {stats.module: stats for stats in largest(rows.values())}
        problems = self._problems | dict.fromkeys(report.problems)
        self._problems = dict.fromkeys(list(problems)[:TOP])
        return self.progress(elapsed_s)

    def progress(self, elapsed_s: float) -> CensusProgress:
        """Return the progress; before the first report, all counts are 0.

        Args:
            elapsed_s: Seconds since the census began.
        """
        totals = sum((report.totals for report in self._reports.values()), Totals())
        seconds = max(elapsed_s, 0.001)
        return CensusProgress(
            files_done=totals.files,
            files_total=self._files_total,
            percent=_percent(totals.files, self._files_total),
            elapsed_s=round(elapsed_s, 1),
            files_per_s=round(totals.files / seconds, 1),
            lines_per_s=round(totals.lines / seconds),
            module=self._module,
            totals=totals,
            largest=list(self._largest.values()),
            workers=[_row(self._reports[worker]) for worker in sorted(self._reports, key=_natural)],
            problems=list(self._problems),
        )


def _row(report: WorkerReport) -> WorkerRow:
    done, total = report.totals.files, report.files_total
    return WorkerRow(report.worker, report.module, done, total, _percent(done, total))


def _natural(worker: str) -> tuple[int, str]:
    return len(worker), worker  # "worker 2" sorts before "worker 10"


def _percent(done: int, total: int) -> int:
    """Round down, so that 100 means every file. A census of no files is at 100."""
    return min(100, done * 100 // total) if total else 100
