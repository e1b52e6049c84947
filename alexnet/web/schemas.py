"""The JSON of the answers, from which the OpenAPI description is made."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorResponse(_Response):
    """Why a request was not answered."""

    error: str = Field(description="The reason, on one line")


class GuessResponse(_Response):
    """A class and its probability."""

    class_name: str = Field(serialization_alias="class", description="The name of the class")
    probability: float = Field(description="From 0 to 1")


class ViewResponse(_Response):
    """What one view of the picture says alone."""

    name: str = Field(description="The place of the crop, such as 'top left, reflected'")
    top: int = Field(description="The first row of the crop, in pixels of the square")
    left: int = Field(description="Its first column")
    reflected: bool
    class_name: str = Field(serialization_alias="class", description="The most probable class of this view")
    probability: float = Field(description="Its probability")


class PredictResponse(_Response):
    """The most probable classes of a picture."""

    id: str = Field(description="The picture's name in further requests, for 15 minutes at most")
    predictions: list[GuessResponse] = Field(description="The most probable first")
    views: list[ViewResponse] = Field(description="The views whose probabilities are averaged")
    agreeing_views: int = Field(description="How many views have the first prediction as their most probable class")
    step: int = Field(description="The steps that the net was trained for")


class PictureResponse(_Response):
    """A picture as the net sees it."""

    side: int = Field(description="Pixels of its side")
    picture: str = Field(description="The central square, a data URI")


class NeighbourResponse(_Response):
    """A training picture that is near another to the net."""

    image: str = Field(description="Its name in the store")
    class_name: str = Field(serialization_alias="class")
    distance: float = Field(description="Euclidean distance of the activities of the last hidden layer")
    picture: str | None = Field(description="The picture as a data URI; null if its store is not there")


class NeighboursResponse(_Response):
    """The training pictures that are nearest to a picture."""

    similar: list[NeighbourResponse] = Field(description="The nearest first")


class ActivitiesResponse(_Response):
    """What a layer makes of the centre of a picture."""

    layer: str
    maps: int = Field(description="The number of feature maps, or of units")
    rows: int = Field(description="The rows of a map; 1 for units")
    columns: int
    active: float = Field(description="The share of the activities that are above zero")
    picture: str = Field(description="All maps beside each other, a data URI: white is the most active")


class MapResponse(_Response):
    """Which pixels of the centre of a picture speak for a class."""

    class_name: str = Field(serialization_alias="class")
    method: str
    strongest: float = Field(
        description="The highest value: of occlusion, how much the probability falls where the pixel is hidden"
    )
    row: int = Field(description="The row of the highest value, of `side`")
    column: int = Field(description="Its column")
    side: int = Field(description="The pixels of the side of the map")
    picture: str = Field(
        description="A data URI, the map over the picture in grey: red speaks for the class, blue against it"
    )


class KernelsResponse(_Response):
    """The kernels of the first layer."""

    layer: str
    kernels: int = Field(description="Their number")
    side: int = Field(description="Pixels of the side of a kernel")
    towers: list[str] = Field(description="For each tower a picture of its kernels, a data URI")


class LayerResponse(_Response):
    """A layer of the net."""

    name: str
    parameters: int = Field(description="Weights and biases")


class NetResponse(_Response):
    """The net that computes the answers."""

    step: int
    epoch: int
    classes: int = Field(description="The number of classes")
    parameters: int = Field(description="Weights and biases")
    layers: list[LayerResponse]
    views: int = Field(description="The number of views that are averaged if a request does not say it")
    store_size: int = Field(description="The side of the squares that pictures are made into")
    image_size: int = Field(description="The side of the crops that the net sees")
    device: str


class RunResponse(_Response):
    """The run that is served."""

    name: str
    version: str = Field(description="The version of alexnet")
    net: NetResponse | None = Field(description="Null if there is no checkpoint yet")
    reason: str | None = Field(description="Why there is no net")
    has_index: bool = Field(description="Whether nearest training pictures can be asked for")
    max_bytes: int = Field(description="The bytes that a picture file may have")


class StepResponse(_Response):
    """A few steps of the training."""

    epoch: float = Field(description="Epochs done")
    loss: float | None = Field(description="Mean training loss; null if it is not finite")
    rate: float | None = Field(description="The highest learning rate of the weights")


class EpochResponse(_Response):
    """An epoch of the training."""

    epoch: int
    split: str = Field(description="The split that was measured")
    train_loss: float | None
    train_error: float | None
    top1_error: float | None = Field(description="Of the split that was measured")
    top5_error: float | None
    log_prob: float | None = Field(description="Mean of -ln p of the correct class")
    seconds: float | None = Field(description="Since the start of the training")


class CurvesResponse(_Response):
    """The course of the training so far."""

    max_epochs: int = Field(description="The epochs of the recipe")
    seconds_ago: float = Field(description="Since the last line was written")
    imported: bool = Field(description="Whether the net was imported, not trained here")
    classes: int
    epochs: list[EpochResponse]
    steps: list[StepResponse] = Field(description="At most 400, each the mean of several")


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is not answered; the line says why"},
    "503": {"model": ErrorResponse, "description": "Not now; the line says why"},
}
