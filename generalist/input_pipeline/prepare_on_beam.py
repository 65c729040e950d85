"""`generalist data prepare --beam`: the same shards, written by the workers of an Apache Beam pipeline."""

import logging
import shlex
from collections.abc import Callable

from etils import epath

from generalist.input_pipeline.prepare import finish, open_original, shard_paths, write_shards
from generalist.input_pipeline.sources import Source

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError("--beam needs Apache Beam: pip install -e '.[beam]'") from error


class WriteShard(beam.DoFn):
    """Index of a shard -> its path, once it is written and verified. Every worker opens the data set once."""

    def __init__(self, name: str, split: str, data_dir: str, out: str, threads: int):
        self._source_of, self._out, self._threads = (name, split, data_dir), out, threads

    def setup(self):
        self._source = open_original(*self._source_of)

    def process(self, index: int):
        paths = shard_paths(self._source, self._out)
        write_shards(self._source, paths, [index], self._threads, logging.info)
        yield str(paths[index])


def prepare_on_beam(
    source: Source,
    data_dir,
    out,
    options: str = "",
    threads: int = 8,
    log: Callable[[str], object] = print,
) -> epath.Path:
    """`prepare.prepare` with a shard as Beam's unit of work; returns the folder.

    Args:
      source: of `open_original` in `data_dir`, which every worker must see under this name, and be able to write to `out`.
      options: Beam's, in one string: "--runner=DataflowRunner --project=... --region=...". Empty: on this machine.
      out, threads, log: as in `prepare`; what the workers say goes to Beam's log.

    Raises ValueError with the message of a worker that fails, or of Beam. Finished shards are kept.
    """
    paths = shard_paths(source, out)
    log(f"{source.NAME}/{source.split}: {len(source)} examples in {len(paths)} shard(s), by Beam")
    write = WriteShard(source.NAME, source.split, str(data_dir), str(out), threads)
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
    return finish(source, paths, log)
