"""What a PNG says about itself: always that a model made it, and its recipe where the visitor wants that."""

from PIL.PngImagePlugin import PngInfo

from sd_space.served_model import ModelInfo
from sd_space.serving.credentials import BY_MODEL, CHANGED_BY_MODEL

# IPTC's term for media that a trained model made, or changed, as the "digital source type" of XMP.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"{source_type}"/></rdf:RDF></x:xmpmeta>'
)


def png_chunks(info: ModelInfo, recipe: str | None, is_changed: bool = False) -> PngInfo:
    """The text chunks of one picture's PNG; `recipe` is `None` where the visitor leaves it out."""
    chunks = PngInfo()
    if recipe is not None:
        chunks.add_itxt("parameters", recipe)
    chunks.add_text("Software", "sd_space")
    chunks.add_text("Source", f"AI-generated with {as_text(info.title)}")
    source_type = CHANGED_BY_MODEL if is_changed else BY_MODEL
    chunks.add_itxt("XML:com.adobe.xmp", _XMP.format(source_type=source_type))
    return chunks


def as_text(name: str) -> str:
    """A folder's name may hold bytes that are no text."""
    return name.encode("utf-8", "replace").decode()
