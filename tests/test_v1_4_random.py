import pytest
import torch

from sd_space.engine.engine import run_to_completion
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.schema import Outcome
from sd_space.settings import Settings
from sd_space.tools import v1_4_random

from .tiny_models import admitted, make_engine


def test_the_architecture_is_v1_4s():
    """The parameters of CompVis/stable-diffusion-v1-4, counted without giving them memory."""
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in v1_4_random.make_modules().items()
    }
    assert counts == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "safety_checker": 303_981_588,
    }


def test_weights_are_the_same_for_the_same_seed_and_finite():
    def filled(seed: int) -> dict[str, torch.Tensor]:
        module = torch.nn.Sequential(torch.nn.Linear(1500, 1500, device="meta"), torch.nn.LayerNorm(8, device="meta"))
        v1_4_random.fill(module, torch.float16, seed)
        return module.state_dict()

    first, again, other = filled(1), filled(1), filled(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert first["0.weight"].dtype == torch.float16
    assert float(first["0.weight"].float().std()) == pytest.approx((3 * 1500) ** -0.5, rel=0.01)
    assert torch.linalg.matrix_rank(first["0.weight"].float()) == 1500, "no row is another's copy"
    assert first["1.weight"].eq(1).all() and first["1.bias"].eq(0).all()


@pytest.mark.slow
@pytest.mark.nightly
def test_it_passes_the_safety_screens_self_test_and_paints():
    loaded = v1_4_random.load(
        PipelineSpec.from_settings(Settings(model=v1_4_random.NAME, runtime="torch"), Hardware("cpu"))
    )
    assert (loaded.info.defaults.width, loaded.info.model) == (512, v1_4_random.NAME)
    result = run_to_completion(make_engine(loaded), admitted("a", num_inference_steps=1, width=64, height=64))
    assert [image.outcome for image in result.images] == [Outcome.OK]
