"""`generalist data prepare --beam`: workers of an Apache Beam pipeline write the same shards."""

import logging
import shlex
from collections.abc import Collection

from etils import epath

from generalist.input_pipeline.prepare import finish, open_original, shard_paths, write_shards
from generalist.input_pipeline.sources import Dataset

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError("--beam needs Apache Beam: pip install -e '.[beam]'") from error

logger = logging.getLogger("generalist")


class WriteShard(beam.DoFn):
    """Writes and verifies the shard of an index, and yields its path.

    Every worker opens the data set once.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str,
        out: str,
        threads: int,
        damaged: Collection[int] | None,
    ):
        self._name = name
        self._split = split
        self._data_dir = data_dir
        self._out = out
        self._threads = threads
        self._damaged = damaged

    def setup(self):
        """Opens the data set."""
        on_error = "raise" if self._damaged is None else "skip"
        self._source = open_original(self._name, self._split, self._data_dir, on_error)
        if self._damaged:
            self._source.leave_out(self._damaged)

    def process(self, index: int):
        """Writes one shard."""
        paths = shard_paths(self._source, self._out)
        write_shards(self._source, paths, [index], self._threads)
        yield str(paths[index])


def prepare_on_beam(
    source: Dataset,
    data_dir,
    out,
    options: str = "",
    threads: int = 8,
    damaged: Collection[int] | None = None,
) -> epath.Path:
    """Prepares a split as `prepare.prepare` does, with a shard as Beam's unit of work.

    What the workers log goes to Beam's log. Finished shards are kept.

    Args:
      source: what `open_original` returns for `data_dir`, with `damaged` left out.
      data_dir: where every worker must see the data set, under this name.
      out: where every worker must be able to write, see `prepare`.
      options: Beam's options in one string: "--runner=DataflowRunner --project=... --region=...".
        Empty: on this machine.
      threads: number of reading threads of each worker.
      damaged: rows that are left out, beside half pairs; None stops at the first damaged example.

    Returns:
      The folder.

    Raises:
      ValueError: a worker fails, or Beam; with its message.
    """
    paths = shard_paths(source, out)
    logger.info(
        f"{source.NAME}/{source.split}: {len(source)} examples in {len(paths)} shard(s), by Beam"
    )

    write = WriteShard(source.NAME, source.split, str(data_dir), str(out), threads, damaged)
    try:
        with beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
            (
                pipeline
                | "Shards" >> beam.Create(range(len(paths)))
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.ParDo(write)
            )
    except RuntimeError as error:  # quotes the traceback of a worker
        raise ValueError(f"Beam: {str(error).strip().splitlines()[-1]}") from error
    return finish(source, paths)
