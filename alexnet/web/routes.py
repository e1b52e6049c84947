"""The endpoints: what each reads and answers."""

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request

from alexnet.data.loading.views import View
from alexnet.results.figures import kernel_tiles
from alexnet.results.nearest_pictures import NearestPicture
from alexnet.utils.console import format_error
from alexnet.web.curves import curves_response
from alexnet.web.errors import RequestError
from alexnet.web.images import activity_tiles, jpeg_uri, png_uri
from alexnet.web.limits import MAX_UPLOAD_BYTES
from alexnet.web.schemas import (
    ERRORS,
    ActivitiesResponse,
    CurvesResponse,
    GuessResponse,
    KernelsResponse,
    LayerResponse,
    MapResponse,
    NeighbourResponse,
    NeighboursResponse,
    NetResponse,
    PictureResponse,
    PredictResponse,
    RunResponse,
    ViewResponse,
)
from alexnet.web.served_run import DrawnMap, LoadedNet, ViewProbabilities
from alexnet.web.service import Service

router = APIRouter(prefix="/api", responses=ERRORS)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


_Service = Annotated[Service, Depends(_service)]


# ---- The run --------------------------------------------------------------------------------------------------------


@router.get("/run", summary="The run: its net, its layers, its number of classes")
def _get_run(service: _Service) -> RunResponse:
    net, reason = None, None
    try:
        net = _net_response(service.run.net())
    except RequestError as error:
        reason = error.message
    return RunResponse(
        name=service.run.path.resolve().name,
        version=metadata.version("alexnet"),
        net=net,
        reason=reason,
        has_index=service.run.has_index(),
        max_bytes=MAX_UPLOAD_BYTES,
    )


def _net_response(net: LoadedNet) -> NetResponse:
    classifier = net.classifier
    layers = {
        name: sum(parameter.numel() for parameter in layer.parameters())
        for name, layer in classifier.net.layers().items()
    }
    return NetResponse(
        step=net.step,
        epoch=net.epoch,
        classes=len(classifier.classes),
        parameters=sum(layers.values()),
        layers=[LayerResponse(name=name, parameters=count) for name, count in layers.items()],
        views=len(net.views(classifier.default_views)),
        store_size=classifier.recipe.store_size,
        image_size=classifier.recipe.net.image_size,
        device=str(net.centre.device),
    )


@router.get("/classes", summary="The names of the classes, in the order of the labels")
def _get_classes(service: _Service) -> list[str]:
    return list(service.run.net().classifier.classes)


@router.get("/curves", summary="The course of the training so far")
def _get_curves(service: _Service) -> CurvesResponse:
    try:
        return curves_response(service.run.path, service.run.history())
    except (ValueError, OSError) as error:
        raise RequestError(404, format_error(error, with_type=False, limit=None)) from error


@router.get("/kernels", summary="The kernels of the first layer (Figure 3)")
def _get_kernels(service: _Service) -> KernelsResponse:
    net = service.run.net()
    layer = net.classifier.recipe.net.layers()[0]
    if net.kernels is None:
        raise RequestError(404, f"{layer} must be a convolution to show its kernels; it has others at each position")
    tiles = kernel_tiles(net.kernels, net.classifier.recipe.net.towers)
    count, _, side, _ = net.kernels.shape
    return KernelsResponse(layer=layer, kernels=count, side=side, towers=[png_uri(tile) for tile in tiles])


# ---- A picture ------------------------------------------------------------------------------------------------------

_PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The picture file itself: curl --data-binary @FILE",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/predict", summary="The most probable classes of a picture", openapi_extra=_PICTURE_BODY)
async def _predict(
    request: Request,
    service: _Service,
    top: Annotated[int, Query(ge=1, le=1000, description="The number of classes")] = 5,
    views: Annotated[Literal["1", "9", "10"] | None, Query(description="The number of views")] = None,
    name: Annotated[str, Query(max_length=1024, description="The file's name, for messages")] = "",
) -> PredictResponse:
    net = await service.net()
    square = await service.read_picture(request, name)
    count = net.classifier.default_views if views is None else int(views)
    computed = await service.compute(service.run.predict, (square, count), net.batch_size(count))
    return _predict_response(computed, service.pictures.add(square), top)


def _predict_response(computed: ViewProbabilities, name: str, top: int) -> PredictResponse:
    classes, probabilities = computed.net.classifier.classes, computed.probabilities
    mean = probabilities.mean(0)
    order = np.argsort(-mean, kind="stable")[:top].tolist()
    best = probabilities.argmax(1).tolist()
    return PredictResponse(
        id=name,
        predictions=[GuessResponse(class_name=classes[label], probability=float(mean[label])) for label in order],
        views=[
            ViewResponse(
                name=_view_name(view, computed.views),
                top=view.top,
                left=view.left,
                reflected=view.reflected,
                class_name=classes[label],
                probability=float(row[label]),
            )
            for view, row, label in zip(computed.views, probabilities, best, strict=True)
        ],
        agreeing_views=best.count(order[0]),
        step=computed.net.step,
    )


def _view_name(view: View, views: Sequence[View]) -> str:
    """Return the place of a view: "centre", "top left, reflected"."""
    middle = views[0]  # the centre
    vertical = "" if view.top == middle.top else "top" if view.top < middle.top else "bottom"
    horizontal = "" if view.left == middle.left else "left" if view.left < middle.left else "right"
    place = f"{vertical} {horizontal}".strip() or "centre"
    return f"{place}, reflected" if view.reflected else place


@router.get("/pictures/{id}", summary="A picture as the net sees it")
def _get_picture(id: str, service: _Service) -> PictureResponse:
    square = service.pictures.get(id)
    return PictureResponse(side=len(square), picture=jpeg_uri(square))


@router.get("/pictures/{id}/similar", summary="The six nearest training pictures (7.1)")
async def _get_similar(id: str, service: _Service) -> NeighboursResponse:
    square = service.pictures.get(id)
    batch_size = (await service.net()).batch_size(1)
    try:
        nearest: list[NearestPicture] = await service.compute(service.run.find_neighbours, square, batch_size)
    except (ValueError, OSError) as error:
        raise RequestError(404, format_error(error, with_type=False, limit=None)) from error
    return NeighboursResponse(
        similar=[
            NeighbourResponse(
                image=item.name,
                class_name=item.label,
                distance=item.distance,
                picture=None if item.picture is None else jpeg_uri(item.picture),
            )
            for item in nearest
        ]
    )


@router.get("/pictures/{id}/map", summary="Which pixels of a picture speak for a class")
async def _get_map(
    id: str,
    service: _Service,
    label: Annotated[str, Query(alias="class", description="The name of the class")],
    method: Annotated[
        Literal["occlusion", "gradient"], Query(description="Hide parts of the picture, or take the gradient")
    ] = "occlusion",
) -> MapResponse:
    square = service.pictures.get(id)
    try:
        drawn: DrawnMap = await service.compute(service.run.draw_maps, (square, label, method), is_slow=True)
    except ValueError as error:
        raise RequestError(404, format_error(error, with_type=False, limit=None)) from error
    row, column = (int(n) for n in np.unravel_index(np.argmax(drawn.values), drawn.values.shape))
    return MapResponse(
        class_name=label,
        method=method,
        strongest=float(drawn.values[row, column]),
        row=row,
        column=column,
        side=len(drawn.values),
        picture=jpeg_uri(drawn.picture),
    )


@router.get("/pictures/{id}/layers/{layer}", summary="What a layer makes of a picture")
async def _get_activities(id: str, layer: str, service: _Service) -> ActivitiesResponse:
    square = service.pictures.get(id)
    names = list((await service.net()).classifier.net.layers())
    if layer not in names:
        raise RequestError(404, f"the layer must be one of {', '.join(names)}; got {layer[:60]!r}")
    activities = await service.compute(service.run.compute_activities, (square, layer), 8)
    rows, columns = activities.shape[1:] if activities.ndim == 3 else (1, 1)
    return ActivitiesResponse(
        layer=layer,
        maps=len(activities),
        rows=rows,
        columns=columns,
        active=float((activities > 0).mean()),
        picture=png_uri(activity_tiles(activities)),
    )
