"""The model: its class and name, changes to its config, its tokenizer, precision and attention."""

from __future__ import annotations

from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

NEMO = "nemo_automodel"
RECIPE = "TrainFinetuneRecipeForNextTokenPrediction"
_TEXT = f"{NEMO}.NeMoAutoModelForCausalLM"
_IMAGE = f"{NEMO}.NeMoAutoModelForImageTextToText"
_LABELS = f"{NEMO}.NeMoAutoModelForSequenceClassification"
_AUTO_CONFIG = "transformers.AutoConfig.from_pretrained"
PLACEHOLDER = "path/of/a/saved/config"


def to_nemo(job: Job) -> None:
    """`base_model` and the class that Axolotl loads it with."""
    target, verdict, why = _class(job)
    scratch = bool(job.get("reinit_weights"))
    job.put("recipe", RECIPE, Verdict.DERIVED, reason="the recipe of NeMo AutoModel that trains on next tokens")
    _, stated = job.first("model_type", "type_of_model")
    of = next((key for key in ("model_type", "type_of_model") if job.get(key) is not None), "")
    call = f"{target}.{'from_config' if scratch else 'from_pretrained'}"
    job.put("model._target_", call, verdict, of, why)
    name = "model.pretrained_model_name_or_path"
    if scratch:
        job.put("model.config._target_", _AUTO_CONFIG, Verdict.DERIVED, "reinit_weights", "built from the config alone")
        name = "model.config.pretrained_model_name_or_path"
    job.put(name, job.source.object("base_model"), Verdict.RENAMED, "base_model")
    if job.get("base_model_config") not in (None, job.get("base_model")):
        why = "NeMo reads config and weights from one place"
        job.lose("base_model_config", why, Verdict.NEEDS_YOU)
    job.lose("base_model_config", "the same as base_model", Verdict.EXACT)
    for key in ("processor_type", "reward_model", "process_reward_model"):
        job.lose(key, f"it goes with {target.rpartition('.')[2]}: another recipe and other data", Verdict.NEEDS_YOU)
    if job.get("num_labels") is not None:
        job.put("model.num_labels", job.get("num_labels"), Verdict.RENAMED, "num_labels")
    assert stated is None or of


def _class(job: Job) -> tuple[str, Verdict, str]:
    _, named = job.first("model_type", "type_of_model")
    words = str(named or "AutoModelForCausalLM")
    if job.get("num_labels") is not None or job.get("reward_model") or "SequenceClassification" in words:
        return _LABELS, Verdict.NEEDS_YOU, "NeMo trains classifiers by another recipe (TrainSeqClsRecipe...)"
    if job.get("processor_type") is not None or words.endswith(("ForConditionalGeneration", "ImageTextToText")):
        return (
            _IMAGE,
            Verdict.NEEDS_YOU,
            "NeMo trains on images by its VLM recipe, with a processor and data of its own",
        )
    return _TEXT, Verdict.DERIVED, "NeMo takes the class that the model's config names, its own where it has one"


def to_axolotl(job: Job) -> None:
    """`model._target_`, and where it reads the model from."""
    call = str(job.get("model._target_") or f"{_TEXT}.from_pretrained")
    scratch = call.endswith("from_config")
    name = next(
        (path for path in ("model.pretrained_model_name_or_path", "model.config.pretrained_model_name_or_path",
                           "model.config.name_or_path", "model.config") if isinstance(job.get(path), str)),
        "",
    )  # fmt: skip
    if name:
        job.put("base_model", job.source.object(name), Verdict.RENAMED, name)
    else:
        why = "Axolotl takes a published model: save the config that stands in the recipe and name the folder"
        of = [leaf.path for leaf in job.leaves if leaf.path.startswith("model.config")]
        job.put("base_model", PLACEHOLDER, Verdict.NEEDS_YOU, of, why)
    if scratch:
        job.put("reinit_weights", True, Verdict.DERIVED, "model._target_", "weights are drawn anew, as by from_config")
    _class_to_axolotl(job, call)
    for path in ("model.config._target_", "model.config.name_or_path", "model.config.pretrained_model_name_or_path"):
        said = str(job.get(path) or "")
        kept = said in (_AUTO_CONFIG, str(job.get(name) or "")) if name else False
        job.lose(path, "Axolotl reads the config by transformers' AutoConfig",
                 Verdict.DERIVED if kept else Verdict.NEEDS_YOU)  # fmt: skip
    recipe = str(job.get("recipe") or job.get("recipe._target_") or RECIPE).rpartition(".")[2]
    usual = recipe == RECIPE
    for path in ("recipe", "recipe._target_"):
        why = "what Axolotl does without being told" if usual else f"{recipe} does what Axolotl has no recipe for"
        job.say(path, Verdict.DERIVED if usual else Verdict.NEEDS_YOU, why)
    if job.get("model.num_labels") is not None:
        job.put("num_labels", job.get("model.num_labels"), Verdict.RENAMED, "model.num_labels")


def _class_to_axolotl(job: Job, call: str) -> None:
    name = call.rpartition(".")[0].rpartition(".")[2]
    of = "model._target_" if job.leaf("model._target_") else ""
    if "SequenceClassification" in name:
        why = "Axolotl trains classifiers as reward models"
        job.put("model_type", "AutoModelForSequenceClassification", Verdict.NEEDS_YOU, of, why)
    elif "ImageTextToText" in name or "Multimodal" in name:
        why = "Axolotl trains on images with a processor, and data in its own chat format"
        job.put("processor_type", "AutoProcessor", Verdict.NEEDS_YOU, of, why)
    elif "CausalLM" in name:
        job.put("model_type", "AutoModelForCausalLM", Verdict.DERIVED, of, "the same model, by transformers' own class")
    else:
        job.say("model._target_", Verdict.NEEDS_YOU, f"Axolotl has nothing like {name}")


def overrides_to_nemo(job: Job) -> None:
    """Changes to the published config."""
    place = "model.config" if job.get("reinit_weights") else "model"
    for leaf in job.leaves:
        inner = leaf.path.split(".", 1)[1] if "." in leaf.path else ""
        if job.get(leaf.path) is None or not inner:
            job.lose(leaf.path)
        else:
            job.put(f"{place}.{inner}", job.source.object(leaf.path), Verdict.RENAMED, leaf.path)


def overrides_to_axolotl(job: Job) -> None:
    """Arguments of the model that are fields of its config."""
    for leaf in job.leaves:
        inner = leaf.path.removeprefix("model.").removeprefix("config.")
        if job.get(leaf.path) is None:
            job.lose(leaf.path)
        elif inner.rpartition(".")[2] == "_target_":
            job.lose(leaf.path, "an object that NeMo builds for its own classes", Verdict.DROPPED)
        else:
            target = f"overrides_of_model_config.{inner}"
            why = "put over the published config, as NeMo does with fields of it"
            job.put(target, job.source.object(leaf.path), Verdict.DERIVED, leaf.path, why)


def tokenizer_to_nemo(job: Job) -> None:
    """A tokenizer other than the model's."""
    name = "tokenizer_config"
    if job.get(name) is not None and job.get(name) != job.get("base_model"):
        place = "dataset.tokenizer.pretrained_model_name_or_path"
        job.put(place, job.source.object(name), Verdict.RENAMED, name)
        if job.get("tokenizer_use_fast") is not None:
            job.put("dataset.tokenizer.use_fast", job.get("tokenizer_use_fast"), Verdict.RENAMED, "tokenizer_use_fast")
    job.lose(name, "the model's own, which NeMo takes anyway", Verdict.EXACT)
    kind = str(job.get("tokenizer_type") or "AutoTokenizer")
    auto = "NeMo loads tokenizers by transformers' AutoTokenizer"
    job.lose("tokenizer_type", auto, Verdict.EXACT if kind == "AutoTokenizer" else Verdict.APPROXIMATED)
    for leaf in job.leaves:
        job.lose(leaf.path, auto, Verdict.DROPPED)


def tokenizer_to_axolotl(job: Job) -> None:
    """`dataset.tokenizer`, and the top-level section that some recipes have."""
    names = ("dataset.tokenizer.pretrained_model_name_or_path", "tokenizer.pretrained_model_name_or_path")
    path, name = job.first(*names)
    model = job.get("model.pretrained_model_name_or_path") or job.get("model.config.pretrained_model_name_or_path")
    if name is not None and name != model:
        job.put("tokenizer_config", job.source.object(path), Verdict.RENAMED, path)
    for place in ("dataset.tokenizer", "tokenizer"):
        job.lose(f"{place}.pretrained_model_name_or_path", "the model's own", Verdict.DERIVED)
        call = str(job.get(f"{place}._target_") or "")
        usual = call.endswith("AutoTokenizer.from_pretrained")
        job.lose(f"{place}._target_", "Axolotl's tokenizers are transformers' too",
                 Verdict.DERIVED if usual else Verdict.NEEDS_YOU)  # fmt: skip
        if job.get(f"{place}.use_fast") is not None:
            job.put("tokenizer_use_fast", job.get(f"{place}.use_fast"), Verdict.RENAMED, f"{place}.use_fast")
    for leaf in job.leaves:
        trusted = leaf.path.endswith("trust_remote_code") and job.get(leaf.path) == job.get("model.trust_remote_code")
        job.lose(leaf.path, "said of the model already" if trusted else "", Verdict.EXACT if trusted else None)


_AUTOCAST = (
    "Axolotl's Trainer computes under autocast, over weights in bfloat16 (under FSDP in float32); NeMo computes "
    "without autocast in the dtype of its weights, under FSDP2 by its policy: bfloat16, gradients reduced in float32"
)


def precision_to_nemo(job: Job) -> None:
    """bf16, fp16 and their kin to the dtype of the weights."""
    for key in ("bf16", "bfloat16", "fp16", "float16", "float32"):
        value = job.get(key)
        if value in (None, False):
            job.lose(key)
            continue
        if key == "bfloat16":
            job.put("model.torch_dtype", "bfloat16", Verdict.DERIVED, key, "weights in bfloat16, no autocast")
        elif key == "bf16":
            job.put("model.torch_dtype", "bfloat16", Verdict.APPROXIMATED, key, _AUTOCAST)
        elif key == "float32":
            why = "NeMo's FSDP2 computes in bfloat16 with float32 weights unless distributed.mp_policy says otherwise"
            job.put("model.torch_dtype", "float32", Verdict.APPROXIMATED, key, why)
        else:
            why = "NeMo has no loss scaling, without which float16 gradients vanish; bfloat16 is written"
            job.put("model.torch_dtype", "bfloat16", Verdict.NEEDS_YOU, key, why)
    if "model.torch_dtype" not in job.draft.written:
        why = f"Axolotl's default is bf16: auto. {_AUTOCAST}"
        job.put("model.torch_dtype", "bfloat16", Verdict.APPROXIMATED, reason=why)


def precision_to_axolotl(job: Job) -> None:
    """The dtype of the weights to a Trainer's setting."""
    path, value = job.first("model.torch_dtype", "model.dtype")
    word = str(value or "auto").rpartition(".")[2]
    of = path if path else ""
    if word in ("bf16", "bfloat16"):
        job.put("bf16", "auto", Verdict.APPROXIMATED, of, _AUTOCAST)
    elif word in ("fp16", "float16", "half"):
        job.put("fp16", True, Verdict.APPROXIMATED, of, "Axolotl's Trainer scales the loss and computes under autocast")
    elif word in ("fp32", "float32", "float"):
        why = f"float32 weights with bfloat16 compute, where Axolotl has one setting for both. {_AUTOCAST}"
        job.put("bf16", "auto", Verdict.APPROXIMATED, of, why)
    else:
        job.put("bf16", "auto", Verdict.APPROXIMATED, of, f"the dtype of the checkpoint. {_AUTOCAST}")
    for leaf in job.leaves:
        job.lose(leaf.path, f"{path} is stated too and counts")


_FLAGS = {
    "flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "flex_attention": "flex_attention",
    "eager_attention": "eager", "xformers_attention": "xformers", "sage_attention": "sage",
}  # fmt: skip
_BOTH = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_BACKEND = {"te": "flash_attention_2", "sdpa": "sdpa", "eager": "eager", "flex": "flex_attention"}


def attention_to_nemo(job: Job) -> None:
    """The attention implementation, also by the flags that older files have."""
    flags = [key for key in _FLAGS if job.get(key) is True]
    name = job.get("attn_implementation")
    path = "attn_implementation" if name is not None else (flags or [""])[0]
    name = name if name is not None else _FLAGS.get(path)
    if name is None:
        why = "transformers' default, written out: NeMo's is flash_attention_2 where flash-attn is installed"
        job.put("model.attn_implementation", "sdpa", Verdict.DERIVED, reason=why)
    elif name in _BOTH:
        verdict = Verdict.RENAMED if path == "attn_implementation" else Verdict.DERIVED
        job.put("model.attn_implementation", name, verdict, path)
    else:
        why = f"NeMo takes transformers' implementations, and {name} is Axolotl's own; sdpa computes the same, slower"
        job.put("model.attn_implementation", "sdpa", Verdict.APPROXIMATED, path, why)
    for leaf in job.leaves:
        job.lose(leaf.path, f"{path} counts", Verdict.DROPPED)


def attention_to_axolotl(job: Job) -> None:
    """`model.attn_implementation`, else the backend of NeMo's own model classes."""
    path, name = job.first("model.attn_implementation", "model.backend.attn")
    if job.ranks.cp > 1 and name != "flash_attention_2":
        why = "Axolotl's context parallelism is ring attention, which needs this one"
        job.put("attn_implementation", "flash_attention_2", Verdict.APPROXIMATED, path, why)
    elif name is None:
        why = "NeMo takes flash_attention_2 where flash-attn is installed, else sdpa; sdpa runs everywhere"
        job.put("attn_implementation", "sdpa", Verdict.APPROXIMATED, reason=why)
    elif path == "model.attn_implementation" and name in _BOTH:
        job.put("attn_implementation", name, Verdict.RENAMED, path)
    else:
        why = f"{name} is an attention of NeMo's own model classes; this one of transformers computes the same"
        job.put("attn_implementation", _BACKEND.get(str(name), "sdpa"), Verdict.APPROXIMATED, path, why)
    for leaf in job.leaves:
        job.lose(leaf.path, f"{path} counts", Verdict.DROPPED)
