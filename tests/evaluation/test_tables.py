from generalist.evaluation import tables

METRICS = {
    "depth/rmse": 0.5,
    "depth/delta1": 0.75,
    "depth/silog": 9.0,
    "denoise/psnr": 27.5,
    "denoise/ssim": None,
    "depth/examples": 3,
    "denoise/examples": 3,
    "trivial/depth/rmse": 1.25,
    "trivial/depth/delta1": 0.8,
    "trivial/denoise/psnr": 20.0,
    "ceiling/depth/rmse": 0.0,
    "ceiling/depth/delta1": 1.0,
    "ceiling/denoise/psnr": None,
}


def test_rows_have_units_percent_and_gains():
    assert [tuple(row) for row in tables.rows(METRICS)] == [
        ("depth", "RMSE", "–", "0.500", "–", "1.250", "0.000", "× 0.40", "m"),
        ("depth", "delta1", "–", "75.0", "–", "80.0", "100.0", "−5.0", "%"),
        ("denoise", "PSNR", "–", "27.50", "–", "20.00", "exact", "+7.50", "dB"),
        ("denoise", "SSIM", "–", "–", "–", "–", "–", "–", ""),
    ]


def test_earlier_evaluations_have_a_column_where_they_measured():
    assert not {"before", "shipped"} & {*tables.columns(METRICS)}
    assert "before" not in tables.format_table(METRICS)
    metrics = METRICS | {"before/depth/rmse": 2.0, "before/denoise/psnr": 12.5}
    assert [*tables.Row._fields] == [*tables.columns(metrics | {"shipped/depth/rmse": 0.25})]
    assert [row.before for row in tables.rows(metrics)] == ["2.000", "–", "12.50", "–"]
    lines = [line.split() for line in tables.format_table(metrics).splitlines()]
    assert lines[0][:5] == ["task", "metric", "before", "prediction", "trivial"]
    assert lines[1][:5] == ["depth", "RMSE", "2.000", "0.500", "1.250"]

    metrics["shipped/depth/rmse"] = 0.25
    lines = [line.split() for line in tables.format_table(metrics).splitlines()]
    assert lines[0][:5] == ["task", "metric", "before", "prediction", "shipped"]
    assert lines[1][:5] == ["depth", "RMSE", "2.000", "0.500", "0.250"]


def test_tiles_are_compared_with_the_input_unchanged():
    rows = list(tables.rows(METRICS | {"denoise/psnr_whole": 29.0}))
    assert tuple(rows[-1]) == (
        "denoise",
        "PSNR, whole image",
        "–",
        "29.00",
        "–",
        "20.00",
        "–",
        "+9.00",
        "dB",
    )


def test_the_text_table_is_aligned_and_names_a_task_once():
    lines = tables.format_table(METRICS).splitlines()
    assert len(lines) == 5 and [line.split()[0] for line in lines] == [
        "task",
        "depth",
        "delta1",
        "denoise",
        "SSIM",
    ]
    assert (
        len(
            {
                line.index(end) + len(end)
                for line, end in zip(lines, ("prediction", "0.500", "75.0", "27.50"), strict=False)
            }
        )
        == 1
    )


def test_values_of_an_image_on_one_line():
    assert (
        tables.format_values({"key": "a", "silog": 9.0, "psnr": 31.25, "ssim": 0.5})
        == "PSNR 31.25 dB   SSIM 0.500"
    )


def test_a_psnr_that_only_rounding_keeps_finite_is_exact():
    """A ceiling of floats in tiles, which are encoded and decoded at their own size."""
    rows = list(tables.rows(METRICS | {"ceiling/denoise/psnr": 162.3, "denoise/psnr": 99.0}))
    assert rows[2].ceiling == "exact" and rows[2].prediction == "99.00"
