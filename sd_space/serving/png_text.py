"""What a PNG says about itself: always that a model made it, and its recipe where the visitor wants that."""

from PIL.PngImagePlugin import PngInfo

from sd_space.schema import GenerationRequest, ModelInfo
from sd_space.serving import infotext

# The samplers' names in other tools' "parameters" chunks, where they differ from ours.
_SAMPLERS = {"PNDM": "PLMS"}
# IPTC's term for media that a trained model made, as the "digital source type" of XMP.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)


def png_chunks(request: GenerationRequest, seed: int, info: ModelInfo, embed_recipe: bool) -> PngInfo:
    """What a PNG says about itself: always that a model made it; the recipe where the visitor wants it."""
    chunks = PngInfo()
    if embed_recipe:
        chunks.add_itxt("parameters", parameters_text(request, seed, info))
    chunks.add_text("Software", "sd_space")
    title = info.title.encode("utf-8", "replace").decode()  # a folder's name may be none that can be written
    chunks.add_text("Source", f"AI-generated with {title}")
    chunks.add_itxt("XML:com.adobe.xmp", _XMP)
    return chunks


def parameters_text(request: GenerationRequest, seed: int, info: ModelInfo) -> str:
    """The recipe in the form that other tools read back."""
    values = {
        "Steps": request.num_inference_steps,
        "Sampler": _SAMPLERS.get(request.scheduler, request.scheduler),
        "CFG scale": f"{request.guidance_scale:.15g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": info.model,
    }
    if info.revision:
        values["Model hash"] = info.revision[:10]
    if info.turbo:  # without it the same values draw another picture
        values["Turbo"] = "on"
    return infotext.write(request.prompt, request.negative_prompt, values)
