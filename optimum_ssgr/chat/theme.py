"""How the page looks, and the little that runs in the browser. Nothing is loaded from elsewhere."""

from pathlib import Path

import gradio as gr


CSS = (Path(__file__).parent / "page.css").read_text()

TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"

# Names for screen readers. The arrow within a folded thought is a nameless button that does what the title around it does.
LABEL_COLUMNS = """() => {
  document.querySelectorAll("#columns > .column").forEach((column, index) => {
    column.setAttribute("role", "region");
    column.setAttribute("aria-label", `Column ${index + 1}`);
    new MutationObserver(() => {
      for (const button of column.querySelectorAll("button[id]")) {
        const label = `${button.textContent.trim()}, column ${index + 1}`;
        if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
      }
      for (const arrow of column.querySelectorAll('.thought-group button[aria-label=""]:not([aria-hidden])')) {
        arrow.setAttribute("aria-hidden", "true");
        arrow.tabIndex = -1;
      }
    }).observe(column, {childList: true, subtree: true});
  });
}"""

# Inside the Hub's frame the address to share is that of the Space's page.
COPY_LINK = """(question, expected, askedQuestion, askedExpected, temperature, tokens, seed, blind) => {
  if (!question) { question = askedQuestion; expected = askedExpected; }
  const outer = document.referrer.startsWith("https://huggingface.co/spaces/");
  const url = new URL(outer ? document.referrer : location.href);
  url.search = url.hash = "";
  const values = {q: question, a: expected, temperature, tokens, seed, blind: blind ? "1" : ""};
  for (const [name, value] of Object.entries(values)) if (String(value ?? "") !== "") url.searchParams.set(name, value);
  try { navigator.clipboard.writeText(url.href).catch(() => {}); } catch (error) {}
  return url.href;
}"""


def download_script(name: str, kind: str) -> str:
    """Return JavaScript that offers a text as a file; the server keeps none."""
    return f"""(text) => {{
  if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {{type: "{kind}"}}));
  link.download = "{name}";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}}"""


def make_theme() -> gr.themes.Base:
    """Return a theme with the fonts of the system, since fonts from elsewhere would be requests to elsewhere."""
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        spacing_size="sm",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(body_text_color_subdued="*neutral_500")  # Gradio's own has a contrast of 2.6 to 1
