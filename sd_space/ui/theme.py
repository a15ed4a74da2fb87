"""The page's theme: its colours and fonts, as Gradio's variables."""

import gradio as gr

# Fonts of the visitor's own system: nothing is fetched, and the words look at home.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=_FONTS,
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    # Grey that is 4.5 : 1 or better on every background here (WCAG AA), in both themes.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    link_text_color_dark="*secondary_400",
    link_text_color_hover_dark="*secondary_300",
    link_text_color_visited_dark="*secondary_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_600",
    button_primary_text_color="white",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    block_label_text_color="*neutral_700",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    # Boxes that are not taken for radio buttons, and are seen before they are ticked: 3 : 1 on what is behind them
    # (WCAG 1.4.11).
    checkbox_border_radius="*radius_xs",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_hover="*neutral_600",
    checkbox_border_color_dark="*neutral_400",
    checkbox_border_color_hover_dark="*neutral_300",
)
