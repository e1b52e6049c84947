"""Exported programs of torch: they load where this package is missing, and compute the same."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_nets import lively_net, narrow_net, random_mean, random_squares, to_pixels

from alexnet.architecture import Net
from alexnet.convert.to_pt2 import to_pt2
from alexnet.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("one_thread")

# `None` in sys.modules makes an import fail, also where the package is installed.
PROGRAM = """
import sys
sys.modules["alexnet"] = None
import numpy as np, torch
net = torch.export.load("net.pt2").module()
np.save("logits.npy", net(torch.from_numpy(np.load("pixels.npy"))).detach().numpy())
assert not [name for name in sys.modules if name.startswith("alexnet.")]
assert not [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("alexnet::")]
"""


def test_it_loads_where_this_package_is_missing(tmp_path: Path) -> None:
    net = lively_net(narrow_net(Net()))
    mean, pixels = torch.from_numpy(random_mean(224)), to_pixels(random_squares(2, 224))
    (tmp_path / "net.pt2").write_bytes(to_pt2(net, mean, "{}"))
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    subprocess.run([sys.executable, "-I", "-c", PROGRAM], cwd=tmp_path, check=True)
    expected = net(pixels - mean).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["cifar10-80sec", "cifar10-11pct"])  # average pooling; locally connected
def test_any_number_of_pictures_can_be_computed(name: str) -> None:
    net = lively_net(narrow_net(RECIPES[name]().net))
    side = net.net.image_size
    mean, pixels = torch.from_numpy(random_mean(side)), to_pixels(random_squares(5, side))
    files = {"alexnet": ""}
    program = torch.export.load(io.BytesIO(to_pt2(net, mean, '{"classes": []}')), extra_files=files)
    assert files == {"alexnet": '{"classes": []}'}
    assert {*program.state_dict} | {"mean"} == {*net.weights()} | {"mean"}
    with torch.inference_mode():
        expected = net(pixels - mean)
        for count in (1, 5):
            torch.testing.assert_close(program.module()(pixels[:count]), expected[:count], rtol=0, atol=1e-4)
