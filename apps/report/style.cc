#include "apps/report/style.h"

namespace spikefold {

// Series: c0 float activations and all that is calm, c1 integers with scales found at run time and all that
// is hot, c2 static ones, c3 and c4 further ones, c5 neutral. Blue, vermilion, green, purple: apart for the
// common kinds of colour blindness (after Okabe and Ito), each at least 3:1 on its background. Shape or dash
// says the same once more.
const char kReportStyle[] = R"css(
:root{color-scheme:light dark;--bg:#fff;--panel:#f5f7fa;--fg:#16202c;--soft:#53606e;--line:#d5dbe3;--link:#005a9c;
--c0:#0068a8;--c1:#c44e00;--c2:#007a5a;--c3:#a0428f;--c4:#7a6500;--c5:#53606e;
--h0:#eef4fa;--h1:#d9e8f4;--h2:#bfd9ec;--h3:#a0c6e2;--h4:#7eb0d5;--h5:#5c97c6;--h6:#3f7db4;--h7:#28639c;--h8:#164a80;--h9:#08305c;
--good:#00614a;--goodbg:#dcf3ea;--mid:#6b4d00;--midbg:#fdf0cd;--bad:#9c1c1c;--badbg:#fde3e0}
@media (prefers-color-scheme:dark){:root{--bg:#11161d;--panel:#1a212b;--fg:#e6ebf1;--soft:#a3afbd;--line:#343f4c;--link:#7cc0f5;
--c0:#5cb3ee;--c1:#ff9650;--c2:#3fcb9c;--c3:#e391d3;--c4:#d9c74a;--c5:#a3afbd;
--h0:#1a2532;--h1:#1c3147;--h2:#1f3f5e;--h3:#234f77;--h4:#2a6192;--h5:#3877ad;--h6:#5390c4;--h7:#79abd8;--h8:#a6c9ea;--h9:#dcecfb;
--good:#7fe0bf;--goodbg:#123329;--mid:#f0cf7a;--midbg:#3a2f10;--bad:#ffaaa0;--badbg:#431b1a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:16px 20px 60px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.65rem;line-height:1.25;margin:.4em 0;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.2em 0 .6em;padding-top:.5em;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4em 0 .4em;overflow-wrap:anywhere}
p{margin:.5em 0;max-width:75ch;overflow-wrap:anywhere}
a{color:var(--link)}
.lead{font-size:1.1rem}
.soft{color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:1em 0}
ol.verdicts{list-style:none;padding:0;margin:0;display:grid;gap:8px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))}
ol.verdicts>li{background:var(--panel);border-radius:8px;padding:10px 14px;overflow-wrap:anywhere}
ol.verdicts ul{margin:.3em 0 0;padding-left:1.2em;color:var(--soft);font-size:.92em}
.grade{font-weight:600}
ol.verdicts .grade{display:inline-block;padding:0 8px;margin-right:6px;border-radius:10px;font-size:.9em}
.g-near-lossless,.g-slight-loss,.g-reference,.good{color:var(--good)}
.g-moderate-loss,.g-clear-loss{color:var(--mid)}
.g-severe-loss,.g-broken,.g-anomalous,.bad{color:var(--bad)}
ol.verdicts .g-near-lossless,ol.verdicts .g-slight-loss,ol.verdicts .g-reference{background:var(--goodbg)}
ol.verdicts .g-moderate-loss,ol.verdicts .g-clear-loss{background:var(--midbg)}
ol.verdicts .g-severe-loss,ol.verdicts .g-broken,ol.verdicts .g-anomalous{background:var(--badbg)}
.scroll{overflow-x:auto;margin:1em 0;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13px;line-height:1.35;font-variant-numeric:tabular-nums}
.caption{color:var(--soft);font-size:13px;margin:1.4em 0 .4em;max-width:none}
.caption+.scroll{margin-top:0}
th,td{padding:5px 8px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
th{background:var(--panel);font-weight:600;vertical-align:bottom}
.n{text-align:right;white-space:nowrap}
th.n{white-space:normal}
td.key{font-weight:600;overflow-wrap:anywhere;min-width:11em}
td.wide{min-width:22em}
td.hash{overflow-wrap:anywhere;min-width:14em}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}
figure{margin:0;padding:10px 12px 12px;border:1px solid var(--line);border-radius:8px;min-width:0}
figure h3{margin:.1em 0 .5em}
figure svg{display:block;width:100%;max-width:500px;height:auto;margin:0 auto}
figcaption{font-size:13px;color:var(--soft);margin-top:8px;overflow-wrap:anywhere}
details{margin:1em 0}
summary{cursor:pointer;font-weight:600}
svg text{font-size:12px;fill:var(--fg)}
svg .tick,svg .note{fill:var(--soft)}
svg .note{font-size:11px}
svg .mid{text-anchor:middle}
svg .end{text-anchor:end}
svg path,svg circle{fill:none;stroke:none}
svg .grid{stroke:var(--line);stroke-width:.7}
svg .axis{stroke:var(--soft)}
svg .event{stroke:var(--soft);stroke-dasharray:2 3}
svg .floor{stroke:var(--soft);stroke-dasharray:6 4}
svg .leader{stroke:var(--soft);stroke-width:.6}
svg .line{stroke-width:2;stroke-linejoin:round}
svg .dashed{stroke-dasharray:6 3}
svg .bar{stroke-width:1.4}
svg .c0{stroke:var(--c0);color:var(--c0)}svg .c1{stroke:var(--c1);color:var(--c1)}svg .c2{stroke:var(--c2);color:var(--c2)}
svg .c3{stroke:var(--c3);color:var(--c3)}svg .c4{stroke:var(--c4);color:var(--c4)}svg .c5{stroke:var(--c5);color:var(--c5)}
svg .mark *{stroke:currentColor;stroke-width:1.6;fill:var(--bg)}
svg .mark.full *{fill:currentColor}
svg .mark.apart *{stroke-dasharray:2 2}
svg .dot{transform-box:fill-box}
svg rect{stroke:var(--bg);stroke-width:.5;fill:none}
svg .h0{fill:var(--h0)}svg .h1{fill:var(--h1)}svg .h2{fill:var(--h2)}svg .h3{fill:var(--h3)}svg .h4{fill:var(--h4)}
svg .h5{fill:var(--h5)}svg .h6{fill:var(--h6)}svg .h7{fill:var(--h7)}svg .h8{fill:var(--h8)}svg .h9{fill:var(--h9)}
svg .none{fill:none;stroke:var(--line)}
@media (max-width:600px){body{padding:8px 12px 40px}h1{font-size:1.35rem}figure{padding:8px 6px}td.wide{min-width:15em}
.scroll td.key{position:static;min-width:7em}}
@media print{.scroll{overflow:visible;border:0}}
)css";

}  // namespace spikefold
