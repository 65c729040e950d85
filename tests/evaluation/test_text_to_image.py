"""What another model finds in painted pictures of what their captions name."""

import types

import numpy as np

from generalist.evaluation.text_to_image import Errors, Found, classes_found, format_figures
from generalist.input_pipeline.scenes import classes_named


class Reader:
    """Takes the level of a pixel for its class."""

    names = ("ball", "wall", "crate")

    def predict(self, images, task):
        assert task == "semantic"
        return [
            types.SimpleNamespace(classes=image[..., 0].astype(int), names=self.names)
            for image in images
        ]


def picture(*pixels_of_each_class):
    levels = np.repeat(np.arange(3, dtype=np.uint8), pixels_of_each_class)
    return np.repeat(levels.reshape(32, 16, 1), 3, axis=-1)


def test_the_classes_of_captions_are_counted_where_they_are_large_enough():
    examples = [
        {"prompt": "a red ball and white walls", "image": picture(100, 412, 0)},
        {"prompt": "two brown crates", "image": picture(0, 0, 512)},
    ]
    # Two pixels of 512 are 1/256: not more, so no ball is seen.
    painted = [picture(2, 510, 0), picture(3, 509, 0)]
    found = classes_found(Reader(), painted, examples, classes_named)
    # Of ball, wall and crate: the wall. True: all. Shuffled: crate in the first, ball and wall in
    # the second.
    assert found == Found(painted=1 / 3, true=1.0, shuffled=2 / 3)


def test_the_table_has_a_line_a_level():
    text = format_figures({0.5: Errors(0.1, 0.2)}, Found(0.5, 1.0, 0.25))
    assert "| 0.5 | 0.1000 | 0.2000 |" in text and "| share | 50.0% | 100.0% | 25.0% |" in text
    assert "share" not in format_figures({0.5: Errors(0.1, 0.2)})
