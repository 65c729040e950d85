"""The frame of the report: one HTML page, light or dark as the reader's system is."""

import html

STYLE = """
:root {
  --paper: #fbfbfa; --card: #ffffff; --ink: #1d2126; --faint: #646b75; --line: #dfe2e6;
  --accent: #2f6fc7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e4e7eb; --faint: #98a1ad; --line: #333a43;
    --accent: #6ea8f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
header p, .note, dd, figcaption { color: var(--faint); }
h1 { font-size: 1.7rem; margin: 0; }
header p { margin: 4px 0 20px; }
h2 {
  font-size: 1.25rem; margin: 48px 0 12px; padding-top: 12px;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 28px 0 8px; }
.wide { overflow-x: auto; margin: 0 0 16px; }
img {
  display: block; width: 100%; min-width: 720px; border: 1px solid var(--line);
  border-radius: 8px;
}
table {
  border-collapse: collapse; background: var(--card); font-variant-numeric: tabular-nums;
  min-width: 100%;
}
caption { text-align: left; font-weight: 600; padding: 8px 0; background: var(--paper); }
th, td {
  padding: 5px 12px; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
thead th { color: var(--faint); font-weight: 500; font-size: 0.86rem; }
tr.first td { border-top: 2px solid var(--line); }
.number { text-align: right; }
.task, td.main { font-weight: 600; }
td.main { color: var(--accent); }
.unit { color: var(--faint); }
.bar { width: 40%; min-width: 160px; }
.bar div {
  position: relative; height: 10px; background: var(--line); border-radius: 3px;
  overflow: hidden;
}
.bar b { display: block; height: 100%; background: var(--accent); }
.bar u { position: absolute; top: 0; width: 2px; height: 100%; background: var(--ink); }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 8px 24px;
}
figure { margin: 0; }
svg {
  display: block; width: 100%; height: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px;
}
svg text { font: 13px system-ui, sans-serif; fill: var(--faint); }
svg .grid { stroke: var(--line); }
svg .axis { stroke: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 0.9rem; padding: 6px 2px; }
.legend i {
  display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
}
dt { font-weight: 600; margin-top: 10px; }
dd { margin: 0; }
summary { cursor: pointer; font-weight: 600; padding: 8px 0; }
.facts th { font-weight: 500; color: var(--faint); }
.facts td { white-space: normal; overflow-wrap: anywhere; }
"""


def page(title: str, summary: str, body: str) -> str:
    """Returns a complete document with its style inline.

    Args:
      title: plain text.
      summary: HTML of the line below the title.
      body: HTML of the rest.
    """
    title = html.escape(title)

    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: one generalist, every dense task</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{summary}</p></header>
{body}
</main>
</body>
</html>
"""
