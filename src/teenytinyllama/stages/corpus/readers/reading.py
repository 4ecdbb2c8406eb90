"""All records of a recipe's sources in its order, and how far the reading has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.corpus_records import RawBatch
from teenytinyllama.stages.corpus.readers.sources import (
    PACKED_SUFFIXES,
    InputFile,
    read_file,
    read_made,
)

TYPICAL_PACKING = 3.5
"""Bytes of text in one packed byte, until a packed file has been read to its end."""


class Reading:
    """Reads every source once: `reading.batches()`; `megabytes` of `total_megabytes` are behind.

    The total is what the files hold on disk; where a source is no file it is not known, and None.
    Inside a packed file the place is an estimate, at its end it is exact.
    """

    def __init__(
        self, settings: CorpusSettings, language: str, files: list[InputFile], notes: Counter[str]
    ) -> None:
        self.settings, self.language, self.files, self.notes = settings, language, files, notes
        has_only_files = all(source.kind == "files" for source in settings.sources)
        self.total_megabytes = sum(f.size_bytes for f in files) / 1e6 if has_only_files else None
        self.megabytes = 0.0
        self._packed_bytes = self._unpacked_bytes = 0

    def batches(self) -> Iterator[RawBatch]:
        """The records, in the recipe's order."""
        for index, source in enumerate(self.settings.sources):
            if source.kind != "files":
                yield from read_made(source, index, self.language)
                continue
            for file in self.files:
                if file.source == index:
                    yield from self._file(file)

    def _file(self, file: InputFile) -> Iterator[RawBatch]:
        before, read = self.megabytes, 0
        is_packed = file.path.suffix in PACKED_SUFFIXES or file.kind == "parquet"
        source = self.settings.sources[file.source]
        for batch in read_file(file, source, self.settings, self.notes):
            read += batch.num_bytes
            behind = min(read / (self._packing() if is_packed else 1), file.size_bytes)
            self.megabytes = before + behind / 1e6
            yield batch
        self.megabytes = before + file.size_bytes / 1e6
        if is_packed:
            self._packed_bytes += file.size_bytes
            self._unpacked_bytes += read

    def _packing(self) -> float:
        if not self._packed_bytes:
            return TYPICAL_PACKING
        return max(self._unpacked_bytes / self._packed_bytes, 1)
