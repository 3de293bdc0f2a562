"""How the pages of runs look: light or dark as the reader's system is, on narrow screens, and on paper."""

from __future__ import annotations

VIEWPORT = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
_LIGHT = "--ink:#1d1f21;--soft:#555b61;--paper:#fff;--rule:#d9dce0;--shade:#f4f5f7;--good:#e8f1fb;--bad:#fbf0e8"
_DARK = "--ink:#e4e6e8;--soft:#aab1b8;--paper:#16191c;--rule:#3a4047;--shade:#20252a;--good:#16293d;--bad:#3a2517"
_LINKS = "a{color:#1f5fa8}"
_MARKS = ".add{color:#1b6e2d}.del{color:#b00020}"

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}{_LINKS}{_MARKS}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:var(--ink);"
    "background:var(--paper);overflow-wrap:anywhere}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--rule);padding-top:1rem}"
    "h3{font-size:1rem;margin:1.2rem 0 .3rem}"
    "table{border-collapse:collapse;margin:.8rem 0;display:block;overflow-x:auto;overflow-wrap:normal}"
    "td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);"
    "min-width:3rem}th{font-weight:600;color:var(--soft)}"
    "pre{background:var(--shade);padding:1rem;overflow:auto;font-size:13px;line-height:1.4;overflow-wrap:normal}"
    "pre.told{white-space:pre-wrap;overflow-wrap:anywhere;max-height:24rem}code{font-size:.92em}"
    ".verdict{font-size:1.15rem;padding:.8rem 1rem;background:var(--good);border-left:4px solid #2a6db5}"
    ".verdict.no{background:var(--bad);border-color:#b5482a}.note{color:var(--soft);font-size:13px}li{margin:.3rem 0}"
    "svg{width:100%;max-width:46rem;min-width:34rem;height:auto;display:block;margin:.6rem 0}"
    ".plot{overflow-x:auto}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}"
    "svg .grid{stroke:var(--rule)}svg .level{stroke:var(--soft);stroke-dasharray:4 4}svg text.cell{fill:#222}"
    "details{margin:.4rem 0}summary{cursor:pointer}nav{font-size:13px}nav a{margin-right:.8rem}"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}a{{color:#7db4ee}}"
    ".add{color:#6fcf87}.del{color:#ff8f8f}}"
    f"@media print{{:root{{color-scheme:light;{_LIGHT}}}{_LINKS}{_MARKS}body{{max-width:none;margin:0;font-size:11px}}"
    "nav{display:none}h2{break-after:avoid}table,svg,tr,.verdict{break-inside:avoid}pre,table{overflow:visible;"
    "white-space:pre-wrap}svg{min-width:0}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"
)
