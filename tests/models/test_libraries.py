import subprocess
import sys

import pytest

from clipdre.config import TINY_MODEL
from clipdre.models.load import _may_need_timm

# In a process of its own: others have imported everything.
LATE = """
import sys
from clipdre.models import libraries
late = {"timm", "torch._dynamo"}
assert late.isdisjoint(sys.modules), late & set(sys.modules)
libraries.load_timm()
tower = libraries.open_clip.model.TimmModel("resnet10t", 8, pool="", proj="mlp")
assert tower.trunk.__module__.startswith("timm.")
assert libraries.open_clip.model.TimmModel is libraries.timm_model.TimmModel
from torchvision.ops import roi_align
assert sys.modules[roi_align.__module__].is_compile_supported("cpu") in (True, False)
assert hasattr(sys.modules["torch._dynamo.utils"], "counters")  # the real one
"""


def test_what_most_models_do_not_need_is_imported_when_it_is():
    subprocess.run([sys.executable, "-c", LATE], check=True)


@pytest.mark.parametrize(
    ("model", "needed"),
    [
        (TINY_MODEL, False),
        ("ViT-L-14", False),
        ("ViT-B-16-SigLIP", True),
        ("hf-hub:any/thing", True),
    ],
)
def test_models_that_may_be_made_from_timm(model, needed):
    assert _may_need_timm(model) is needed
