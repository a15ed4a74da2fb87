"""Checks the configurations of a model folder: are they possible, and do the parts they describe fit together?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sd_space.model.files import INDEX

AGAIN = "fetch or copy it again"
CLASSES = {  # in model_index.json: the library, and the class in every spelling of the last years
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "safety_checker": ("stable_diffusion", ("StableDiffusionSafetyChecker",)),
    "feature_extractor": (
        "transformers",
        ("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorPil", "CLIPImageProcessorFast"),
    ),
}
# (n, m): the purpose of a UNet whose input has n times the latents' channels and m more.
OTHER_UNETS = {(2, 1): "inpainting", (2, 0): "editing a picture", (1, 1): "depth maps", (1, 3): "enlarging"}
MORE_INPUTS = (  # settings of a UNet for inputs that no plain Stable Diffusion has and nothing here provides
    "class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type",
    "time_cond_proj_dim",
)  # fmt: skip
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_HEADS = {768: 12, 1024: 16, 1280: 16}  # heads of the published vision towers, by their width
MOST = 2**20  # the largest number that a configuration may contain
MOST_LAYERS = 128
SIZES = (64, 4096)  # pixels a side that a model may be made for


class Unfit(Exception):
    """A model that cannot be served; the text is half a sentence: what is wrong, and how to fix it."""

    def sentence(self, model: str) -> str:
        return f"{model} cannot be served: {self}"


class NoChecker(Unfit):
    """The folder has no safety checker at all."""


def check_configs(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises Unfit for the first fault in the JSON files of a folder, given by their names."""
    _check_index(configs[INDEX])
    for name, config in configs.items():
        if name.endswith("/config.json"):
            _check_counts(name, config)
    _check_unet(configs["unet/config.json"], configs["vae/config.json"], configs["text_encoder/config.json"])
    _check_vae(configs["vae/config.json"])
    _check_tokenizer(configs)
    _check_scheduler(configs["scheduler/scheduler_config.json"])
    _check_vision(configs["safety_checker/config.json"])
    _check_extractor(configs["feature_extractor/preprocessor_config.json"], configs["safety_checker/config.json"])


def _check_index(index: Mapping[str, Any]) -> None:
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise Unfit(
            f"it is a {_shown(index.get('_class_name'))}, and only StableDiffusionPipeline is served; "
            "set SD_SPACE_MODEL to another model."
        )
    for part, (library, classes) in CLASSES.items():
        named = index.get(part)
        is_off = named is None or named == [None, None]
        if is_off and part == "safety_checker":
            continue  # its folder exists, and it is loaded from there in any case
        if is_off and part == "feature_extractor":
            raise Unfit(
                f"{INDEX} names no feature_extractor, without which the safety checker sees nothing; hand it one: "
                'write "feature_extractor": ["transformers", "CLIPImageProcessor"] into that file.'
            )
        if named not in [[library, name] for name in classes]:
            found = ".".join(map(str, named)) if isinstance(named, list) else named
            raise Unfit(f"{INDEX} names {_shown(found)} as {part}, and only {classes[0]} is served; {AGAIN}.")
    if index.get("image_encoder") not in (None, [None, None]):
        raise Unfit(f"{INDEX} names an image_encoder, and only text-to-image is served; set that to [null, null].")
    scheduler: Any = index.get("scheduler")
    is_named = isinstance(scheduler, list) and len(scheduler) == 2 and scheduler[0] == "diffusers"
    if not is_named or not str(scheduler[1]).endswith("Scheduler"):
        raise Unfit(f"{INDEX} names no noise scheduler of diffusers as scheduler; {AGAIN}.")


def _check_counts(name: str, config: Mapping[str, Any]) -> None:
    """Refuses numbers so large that building what they describe would never end."""
    for key, value in _numbers(config):
        most = MOST_LAYERS if "layers" in key else MOST
        if not abs(value) <= most:  # which is also so for NaN
            raise Unfit(f"{name} says that {key} is {_shown(value)}, which no such model has; {AGAIN}.")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        yield key, len(value)
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def whole(name: str, config: Mapping[str, Any], key: str, low: int = 1, high: int = MOST) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fault = f"lacks {key}" if key not in config else f"says that {key} is {_shown(value)}"
        raise Unfit(f"{name} {fault}, which must be a whole number from {low} to {high}; {AGAIN}.")
    return value


def _widths(name: str, config: Mapping[str, Any], key: str) -> list[int]:
    values = config.get(key)
    if not isinstance(values, list) or not values:
        raise Unfit(f"{name} has no list of whole numbers as {key}; {AGAIN}.")
    return [whole(name, {key: value}, key) for value in values]


def check_channels(inputs: int, outputs: int, latents: int) -> None:
    for (factor, more), purpose in OTHER_UNETS.items():
        if inputs == factor * latents + more and inputs != latents:
            raise Unfit(
                f"its UNet takes {inputs} channels: it is one for {purpose}, and only text-to-image is served; "
                "set SD_SPACE_MODEL to a text-to-image model."
            )
    if inputs != latents or outputs != latents:
        raise Unfit(
            f"its UNet takes {inputs} channels and gives {outputs}, and its VAE has {latents}; "
            "take both folders from the same model."
        )


def _check_unet(unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    name = "unet/config.json"
    latents = whole("vae/config.json", vae, "latent_channels")
    inputs, outputs = whole(name, unet, "in_channels"), whole(name, unet, "out_channels")
    check_channels(inputs, outputs, latents)
    for key in MORE_INPUTS:
        if unet.get(key) is not None:
            raise Unfit(f"{name} asks for inputs that a plain Stable Diffusion has not ({key}); {AGAIN}.")
    width, made = whole(name, unet, "cross_attention_dim"), whole("text_encoder/config.json", text, "hidden_size")
    if width != made:
        raise Unfit(
            f"its UNet reads texts {width} wide, and its text encoder makes them {made} wide; "
            "take both folders from the same model."
        )
    factor = 2 ** (len(_widths("vae/config.json", vae, "block_out_channels")) - 1)
    whole(name, unet, "sample_size", -(-SIZES[0] // factor), SIZES[1] // factor)
    _widths(name, unet, "block_out_channels")


def _check_vae(vae: Mapping[str, Any]) -> None:
    for key in ("in_channels", "out_channels"):
        if whole("vae/config.json", vae, key) != 3:
            raise Unfit(f"vae/config.json says that {key} is {vae[key]}, and a picture has 3; {AGAIN}.")
    scale = vae.get("scaling_factor", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 1e-3 <= scale <= 1e3:
        raise Unfit(f"vae/config.json says that scaling_factor is {_shown(scale)}, which no VAE has; {AGAIN}.")


def _check_tokenizer(configs: Mapping[str, Mapping[str, Any]]) -> None:
    text, name = configs["text_encoder/config.json"], "tokenizer/tokenizer_config.json"
    if name not in configs:
        raise Unfit(f"it has no {name}; fetch or copy it from the same model.")
    if "eos_token_id" in text:  # by which the encoder looks for the end of a prompt
        whole("text_encoder/config.json", text, "eos_token_id", 0)
    longest = whole("text_encoder/config.json", text, "max_position_embeddings")
    whole(name, configs[name], "model_max_length", 3, longest)
    vocabulary = configs.get("tokenizer/tokenizer.json", {}).get("model")
    words = vocabulary.get("vocab") if isinstance(vocabulary, dict) else configs.get("tokenizer/vocab.json")
    if not isinstance(words, dict) or not all(isinstance(number, int) for number in words.values()):
        raise Unfit(f"the tokenizer's vocabulary holds no words with their numbers; {AGAIN}.")
    size = whole("text_encoder/config.json", text, "vocab_size")
    if not words or max(words.values()) >= size:
        raise Unfit(
            f"its tokenizer has {len(words)} words, and its text encoder {size}; take both folders from the same model."
        )


def _check_scheduler(config: Mapping[str, Any]) -> None:
    name = "scheduler/scheduler_config.json"
    whole(name, config, "num_train_timesteps", 150, 100_000)
    kind = config.get("prediction_type", PREDICTION_TYPES[0])
    if kind not in PREDICTION_TYPES:
        raise Unfit(
            f"{name} says that prediction_type is {_shown(kind)}, and {', '.join(PREDICTION_TYPES)} are served; "
            f"{AGAIN}, or set SD_SPACE_MODEL to another model."
        )


def _check_vision(checker: Mapping[str, Any]) -> None:
    """The safety checker is CLIP's vision tower; its weights alone do not show a change of its arithmetic."""
    name, vision = "safety_checker/config.json", _vision(checker)
    width, heads = whole(name, vision, "hidden_size"), whole(name, vision, "num_attention_heads")
    is_clip = (
        vision.get("hidden_act", "quick_gelu") == "quick_gelu"
        and vision.get("layer_norm_eps", 1e-5) == 1e-5
        and vision.get("num_channels", 3) == 3
        and width % heads == 0
        and heads == CLIP_HEADS.get(width, heads)
    )
    if not is_clip:
        raise Unfit(f"{name} is not of CLIP's vision tower, so that it would judge wrongly; {AGAIN}.")


def _vision(checker: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the vision tower, from both places where it may be."""
    vision: dict[str, Any] = {}
    for key in ("vision_config", "vision_config_dict"):  # transformers puts the second over the first
        part = checker.get(key)
        if not isinstance(part, dict) and not (part is None and key.endswith("dict")):
            raise Unfit(f"safety_checker/config.json has no {key}; {AGAIN}.")
        vision |= part or {}
    return vision


def _check_extractor(extractor: Mapping[str, Any], checker: Mapping[str, Any]) -> None:
    """The checker judges rightly only pictures that were prepared as for CLIP."""
    size = whole("safety_checker/config.json", _vision(checker), "image_size")
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    is_alike = (
        extractor.get("size") in (size, {"shortest_edge": size})
        and extractor.get("crop_size") in (size, {"height": size, "width": size})
        and all(extractor.get(step, True) is True for step in steps)
        and extractor.get("resample", 3) == 3
        and _is_close(extractor.get("image_mean"), CLIP_MEAN)
        and _is_close(extractor.get("image_std"), CLIP_STD)
        and _is_close([extractor.get("rescale_factor", 1 / 255)], (1 / 255,))
    )
    if not is_alike:
        raise Unfit(
            "feature_extractor/preprocessor_config.json does not show pictures to the safety checker as CLIP sees "
            f"them, {size} x {size}; {AGAIN} from the same model."
        )


def _is_close(values: Any, expected: Sequence[float]) -> bool:
    is_list = isinstance(values, list) and len(values) == len(expected)
    return is_list and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value - right) < 1e-4
        for value, right in zip(values, expected, strict=True)
    )


def check_widths(part: str, config: Mapping[str, Any], dimensions: set[int]) -> None:
    """Refuses widths that no tensor of the weights has: the libraries would allocate gigabytes for them."""
    name, named = f"{part}/config.json", _vision(config) if part == "safety_checker" else config
    wanted = {
        "unet": ("in_channels", "out_channels", "cross_attention_dim"),
        "vae": ("latent_channels",),
        "text_encoder": ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"),
        "safety_checker": ("hidden_size", "intermediate_size", "patch_size"),
    }[part]
    for key in wanted:
        if (value := whole(name, named, key)) not in dimensions:
            raise Unfit(f"{name} says that {key} is {value}, and its weights say otherwise; {AGAIN}, with the weights.")
    for value in _widths(name, config, "block_out_channels") if part in ("unet", "vae") else ():
        if value not in dimensions:
            raise Unfit(f"{name} names {value} channels, and its weights say otherwise; {AGAIN}, with the weights.")


def _shown(value: object) -> str:
    """A value as a sentence can show it: short, and on one line."""
    text = "".join(c for c in str(value) if c.isprintable())
    return text if len(text) <= 40 else f"a {type(value).__name__} of {len(text)} characters"
