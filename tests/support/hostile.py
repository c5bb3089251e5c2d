"""Hostile text that a model, a task or a prompt might write into a page."""

MARKUP = [
    "<script>window.__hit = 1</script>", "<img src=x onerror='window.__hit = 1'>", "<svg onload=window.__hit=1>", "<svg><script>window.__hit=1</script></svg>",
    "<body onload=window.__hit=1>", "<iframe srcdoc='<script>parent.__hit=1</script>'></iframe>", "<iframe src='javascript:parent.__hit=1'></iframe>",
    "<a href='javascript:window.__hit=1'>click</a>", "<a href='data:text/html,<script>parent.__hit=1</script>'>x</a>", "<math><mi xlink:href='javascript:window.__hit=1'>x</mi></math>",
    "<style>*{display:none}</style>", "<link rel=stylesheet href='//evil.example/x.css'>", "<meta http-equiv=refresh content='0;url=//evil.example'>", "<base href='//evil.example/'>",
    "<form action='//evil.example'><input autofocus onfocus=window.__hit=1></form>", "<details open ontoggle=window.__hit=1>", "<video><source onerror=window.__hit=1></video>",
    "<audio src=x onerror=window.__hit=1>", "<object data='javascript:window.__hit=1'>", "<embed src='javascript:window.__hit=1'>", "<marquee onstart=window.__hit=1>", "<template><script>window.__hit=1</script></template>",
    "</script><script>window.__hit=1</script>", "</textarea><script>window.__hit=1</script>", "</style><script>window.__hit=1</script>", "</title><script>window.__hit=1</script>", "--><script>window.__hit=1</script>",
    "]]><script>window.__hit=1</script>", "\"><script>window.__hit=1</script>", "'><script>window.__hit=1</script>", "'-window.__hit=1-'", "\"-window.__hit=1-\"", "`${window.__hit=1}`", "${window.__hit=1}", "{{constructor.constructor('window.__hit=1')()}}",
    "<noscript><p title='</noscript><img src=x onerror=window.__hit=1>'>", "<x onclick=window.__hit=1 tabindex=1 id=x>#x", "<input type=image src=x onerror=window.__hit=1>", "<select onfocus=window.__hit=1 autofocus>", "<table background='javascript:window.__hit=1'>",
    "<div style='background:url(javascript:window.__hit=1)'>", "<div style='width:expression(window.__hit=1)'>", "<img src='https://evil.example/pixel.gif'>", "<img srcset='//evil.example/p.gif 1x'>", "<isindex prompt=x action='javascript:window.__hit=1'>",
    "<script src=//evil.example/x.js></script>", "<SCRIPT>window.__hit=1</SCRIPT>", "<scr\x00ipt>window.__hit=1</scr\x00ipt>", "<img/src=x/onerror=window.__hit=1>", "<img src=`x` onerror=window.__hit=1>", "&lt;script&gt;window.__hit=1&lt;/script&gt;", "&#60;script&#62;window.__hit=1&#60;/script&#62;",
]  # fmt: skip
CONTROLS = [
    *(f"control {code:#04x}: [{chr(code)}] end" for code in (*range(0x00, 0x20), 0x7F, 0x85, 0x9B)),
    *(f"{name}: [{chr(code)}abc] end" for name, code in (
        ("right-to-left override", 0x202E), ("left-to-right override", 0x202D), ("right-to-left embedding", 0x202B), ("left-to-right embedding", 0x202A), ("pop", 0x202C),
        ("isolate", 0x2066), ("right isolate", 0x2067), ("first strong", 0x2068), ("pop isolate", 0x2069), ("right-to-left mark", 0x200F), ("left-to-right mark", 0x200E), ("arabic letter mark", 0x061C),
        ("zero width space", 0x200B), ("zero width joiner", 0x200D), ("zero width non-joiner", 0x200C), ("word joiner", 0x2060), ("byte order mark", 0xFEFF), ("soft hyphen", 0x00AD),
        ("line separator", 0x2028), ("paragraph separator", 0x2029), ("no-break space", 0x00A0), ("tag", 0xE0041), ("variation selector", 0xFE0F), ("replacement", 0xFFFD), ("private use", 0xE000), ("surrogate", 0xD800),
    )),
]  # fmt: skip
SHAPES = [
    "", " ", "\t\t\t", "\n\n\n", "a\r\nb", "a" * 2000, "word " * 500, "Z" + "\u0301" * 60, "\u0e47" * 40, "漢字" * 100, "👩‍👩‍👧‍👦" * 20,
    "\x1b[2J\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[red]markup[/red]", "__proto__", "constructor", "toString", "hasOwnProperty", "null", "NaN", "undefined", "0", "-0", "1e999",
    "=cmd|' /C calc'!A0", "+1+1", "@SUM(1)", "'; DROP TABLE samples; --", "%", "_", "\\", "\\u0000", "../../../../etc/passwd", "%2e%2e%2f", "javascript:window.__hit=1", "data:text/html,x", "//evil.example", "?run=x#y", "a,b;c\"d'e",
]  # fmt: skip
HOSTILE = [*MARKUP, *CONTROLS, *SHAPES]
assert len(HOSTILE) >= 100
