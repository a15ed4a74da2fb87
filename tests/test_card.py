import pytest

from sd_space import card
from sd_space.card import load_card, parse_card


def test_the_examples_are_the_widgets_five_and_the_astronaut():
    titles = [example.title for example in load_card().examples]
    assert titles == [
        "Amazon rainforest",
        "Pikachu in Paris",
        "Expressionist robot",
        "Insect robot",
        "Snowy disney cabin",
        "Astronaut on Mars",
    ]
    assert load_card().examples[0].text == "A high tech solarpunk utopia in the Amazon rainforest"
    assert load_card().examples[5].text == "a photo of an astronaut riding a horse on mars"


def test_the_gates_words_are_the_front_matters():
    assert load_card().gate_heading == "Please read the LICENSE to access this model"
    assert load_card().gate_prompt.startswith("This model is open access and available to all")
    assert card.LICENCE_URL in load_card().gate_prompt


def test_no_slip_of_the_card_reaches_the_page():
    text = " ".join(section.markdown for section in load_card().sections) + load_card().introduction
    for slip in (
        "https:/steps",
        "This weights",
        "the embedding space of the `CLIPTextModel`",
        'revision="fp16")',
        "![",
        "\0",
    ):
        assert slip not in text
    assert "CLIPVisionModel" in load_card().section("Safety Module").markdown


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Direct Use", "research purposes only"),
        ("Misuse, Malicious Use, and Out-of-Scope Use", "Impersonating individuals without their consent"),
        ("Limitations", "cannot render legible text"),
        ("Bias", "white and western cultures"),
        ("Training", "LAION-2B (en)"),
        ("Evaluation Results", "50 PLMS steps"),
        ("Environmental Impact", "11250 kg CO2 eq."),
    ],
)
def test_each_section_that_the_page_shows_is_cut_out_whole(title, words):
    assert words in load_card().section(title).markdown


def test_the_citation_is_bibtex():
    assert load_card().citation.startswith("@InProceedings{Rombach_2022_CVPR,")
    assert load_card().citation.endswith("}")


def test_a_comment_in_code_is_not_a_heading():
    assert "# Use the Euler scheduler" in load_card().section("PyTorch").markdown


def test_a_repair_that_no_longer_fits_is_reported():
    with pytest.raises(ValueError, match="no longer says"):
        parse_card("---\nlicense: x\n---\n# Title\ntext\n")
