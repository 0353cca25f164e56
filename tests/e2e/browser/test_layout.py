import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
WIDTHS = (390, 1440)
# Relative luminance as in WCAG 2.2. Colors are given as rgb() or, from P3, as color().
LUMINANCE = """() => {
  const canvas = document.createElement('canvas').getContext('2d');
  const luminance = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = document.querySelector('[data-accent-color] h1, [data-accent-color] a');
  let ground = words;
  while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') {
    ground = ground.parentElement;
  }
  return [getComputedStyle(words).color, getComputedStyle(ground).backgroundColor].map(luminance);
}"""

# Elements that scroll horizontally, without code blocks, which may.
SCROLLING = """() => [...document.querySelectorAll('.rt-TableRoot *, .rt-Card, .rt-Card > *')]
  .filter(e => getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).textOverflow !== 'ellipsis')
  .map(e => e.className + ': ' + e.scrollWidth + ' in ' + e.clientWidth)"""


async def test_no_page_scrolls_horizontally(open_page):
    page = await open_page()
    census_id = await page.start_census("httpx", workers=2)
    await page.until_status("completed")
    ask_id = await page.ask("How do I run a subprocess with a timeout?")
    await page.until_status("completed")
    paths = {
        "/": "#start",
        "/runs": "table",
        "/operator": ".live-stream",
        f"/census/{census_id}": ".module",
        f"/runs/{census_id}": "#stream-summary",
        f"/ask/{ask_id}": "#answer",
        f"/runs/{ask_id}": "#stream-answer",
        "/runs/run_0mwzzzzzzzzzzzzzzzzzzzzzzzzzz": "[role=alert]",
    }
    for path, landmark in paths.items():
        await page.goto(path)
        await page.page.locator(landmark).first.wait_for()
        for scheme in ("light", "dark"):
            await page.page.emulate_media(color_scheme=scheme)
            await page.until(
                "scheme => document.documentElement.classList.contains(scheme)", scheme
            )
            text, ground = await page.page.evaluate(LUMINANCE)
            assert (text > ground) == (scheme == "dark")
            assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7
            for width in WIDTHS:
                await page.page.set_viewport_size({"width": width, "height": 900})
                wide = await page.page.evaluate(
                    "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame("
                    "() => done(document.documentElement.scrollWidth))))"
                )
                boxes = await page.page.evaluate(SCROLLING)
                assert boxes == [], f"{path}: {boxes} scroll sideways on {width} px ({scheme})"
                assert wide <= width, f"{path} is {wide} px wide on {width} px ({scheme})"
