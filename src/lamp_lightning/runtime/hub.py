"""Motions on the Hugging Face hub: their ids, fetching and publishing them, and what goes wrong, in words.

All of it is done by `huggingface_hub`, whose settings hold: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamp_lightning.runtime.errors import UserError, first_line, with_causes

ADAPTER = "adapter.safetensors"  # the file of a motion in its repository
LARGEST = 10 * 2**30  # bytes of an adapter that is fetched; Stable Diffusion XL's have 2.5 GB
OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")  # of `hf_hub_download`
LOG_IN = "Log in with: hf auth login (or set HF_TOKEN)."
_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_ID = re.compile(
    rf"(?P<hf>hf://)?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>\w[\w.-]*(?:/\w[\w.-]*)*))?", re.A
)
_FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".json", ".yaml", ".mp4", ".git")
_OURS = ("README.md", ADAPTER, "*.png", "videos/*")  # what a motion's repository has from us


@dataclass(frozen=True)
class HubMotion:
    """A motion's repository on the hub, and which of its versions.

    Example:
        >>> HubMotion.named("ann/rain@v2")
        HubMotion(repo='ann/rain', revision='v2')
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @classmethod
    def named(cls, text: str | Path) -> HubMotion | None:
        """What `owner/name`, `owner/name@revision` or `hf://owner/name` names.

        None for paths: what is there, any `Path`, what has a file's ending, and what begins with a folder
        that is there, which is a misspelt path. `hf://` is for those who have a folder that is called like
        the owner.
        """
        if not isinstance(text, str):
            return None
        found = _ID.fullmatch(text)
        if found is None or re.search(r"\.\.|--", text) or found["repo"].lower().endswith(_FILES):
            return None
        owner = found["repo"].partition("/")[0]
        if not found["hf"] and (Path(text).exists() or Path(owner).exists() or owner == "runs"):
            return None
        return cls(found["repo"], found["revision"])


def is_id(text: str) -> bool:
    """Whether a text is a name as the hub gives them, `owner/name`, whatever is there on this machine."""
    found = _ID.fullmatch(text)
    return found is not None and found["hf"] is None and found["revision"] is None and ".." not in text


# -- fetching ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """A file of the hub in this machine's cache, and the exact version that it is: `owner/name@commit`."""

    file: Path
    name: str


def motion_file(where: str | Path, **options: Any) -> Path:
    """The adapter that `where` names: a path as it is, or fetched from the hub; a local path always wins.

    Args:
        where: a path, or what `HubMotion.named` knows.
        options: those of `fetch`.

    Raises:
        UserError: as `fetch`.
    """
    motion = HubMotion.named(where)
    return Path(where) if motion is None else fetch(motion, **options).file


def fetch(
    motion: HubMotion,
    *,
    weight_name: str | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Fetched:
    """A motion's adapter, from this machine's cache where that has the newest, else from the hub.

    Args:
        motion: which.
        weight_name: diffusers' word for the file's name in the repository, `adapter.safetensors` by default.
        say: called with a sentence before something is downloaded.
        options: those of `OPTIONS`, as in diffusers.

    Raises:
        UserError: no such repository, version or file, none that this user may read, no network, or a file
            that is no safetensors or too large.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    name, revision = weight_name or ADAPTER, options.pop("revision", None) or motion.revision
    what = str(HubMotion(motion.repo, revision))
    if not name.endswith(".safetensors"):
        raise UserError(f"weight_name={name}: a motion is a .safetensors file; nothing else is loaded.")
    with in_words(what, name):
        place: dict[str, Any] = {"repo_id": motion.repo, "filename": name, "revision": revision}
        cached = try_to_load_from_cache(**place, cache_dir=options.get("cache_dir"))
        if not isinstance(cached, str) and not options.get("local_files_only"):
            about = get_hf_file_metadata(hf_hub_url(**place), token=options.get("token"))
            check_size(what, name, about.size)
            if say is not None:
                size = "" if about.size is None else f", {megabytes(about.size)}"
                say(f"Fetching {what} from the hub{size} ...")
        file = Path(hf_hub_download(**place, **options, library_name="lamp-lightning"))
    parts = file.parts
    return Fetched(file, f"{motion.repo}@{parts[len(parts) - 1 - parts[::-1].index('snapshots') + 1]}")


def check_size(what: str, name: str, size: int | None) -> None:
    """Refuse a file that is larger than any motion."""
    if size is not None and size > LARGEST:
        raise UserError(
            f"{what}: its {name} has {size:,} bytes, and {LARGEST:,} are the most that is fetched. It is no "
            "motion; fetch it by hf download if you want it all the same."
        )


def megabytes(size: int) -> str:
    """A number of bytes for people.

    Example:
        >>> megabytes(1_015_743_336)
        '1,016 MB'
    """
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


# -- publishing ----------------------------------------------------------------------------------------------


def check_token(token: str | bool | None) -> None:
    """Raise UserError where nobody is logged in: nothing can be published then."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "HF_HUB_OFFLINE=1 forbids asking the hub, so that nothing can be published: unset it."
        )
    if not (token if isinstance(token, str) else get_token()):
        raise UserError(
            "Nothing is published: no token of the hub is here. Make one with the right to write at "
            f"https://huggingface.co/settings/tokens. {LOG_IN}"
        )


def publish(
    repo: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> Any:
    """Put files into a repository, in one commit: all of them or none. A new repository is made for them.

    Where the commit fails, a repository that was made for it is removed again. In one that is there, pictures
    and videos of an earlier version go; it keeps its history.

    Args:
        repo: `owner/name`, or `name` for one of the user's own.
        files: what to put there, by its name in the repository.
        message: of the commit.
        private: None: as the hub does it, which is public for most accounts.
        token: None: the one that is logged in.
        create_pr: propose it to the owners of the repository instead of changing that.

    Returns:
        huggingface_hub's `CommitInfo`, whose `repo_url.repo_id` is the whole id.

    Raises:
        UserError: no token, no network, no rights, a repository that holds something else, or one that is
            public where a private one is asked for.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    check_token(token)
    api = HfApi(token=token, library_name="lamp-lightning")
    with in_words(repo, publishing=True):
        if "/" not in repo:
            repo = f"{api.whoami()['name']}/{repo}"
        try:
            there = api.model_info(repo)
        except RepositoryNotFoundError:
            there = None
        old = [] if there is None else [each.rfilename for each in there.siblings or ()]
        if there is not None:
            _check_holds_motion(repo, old)
            if private and not there.private:
                raise UserError(
                    f"{repo} is public, and private=true was asked for: make it private on its page, or take "
                    "another name."
                )
        stale = [name for name in old if _is_ours(name) and name not in files]
        operations: list[Any] = [CommitOperationDelete(name) for name in stale]
        operations += [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        if there is None:
            api.create_repo(repo, private=private)
        try:
            return api.create_commit(repo, operations, commit_message=message, create_pr=create_pr)
        except BaseException as error:
            left = "" if there is not None else _take_back(api, repo)
            if left and isinstance(error, Exception):
                said = _said(repo, "", error, True) or first_line(error)
                raise UserError(f"{said} {left}") from error
            raise


def _check_holds_motion(repo: str, names: Sequence[str]) -> None:
    others = [name for name in names if name not in (".gitattributes", "README.md")]
    if others and ADAPTER not in names:
        raise UserError(
            f"{repo} is there and holds something else ({', '.join(others[:3])}): take another name."
        )


def _is_ours(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in _OURS)


def _take_back(api: Any, repo: str) -> str:
    """Remove a repository that was made for a commit that failed, if it is as empty as it was made.

    Returns what the user has to know where that is not possible.
    """
    with contextlib.suppress(Exception):
        if {each.rfilename for each in api.model_info(repo).siblings or ()} <= {".gitattributes"}:
            api.delete_repo(repo)
            return ""
    return f"The repository that was made for it could not be removed: look at {api.endpoint}/{repo}."


# -- errors in words -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_words(what: str, file: str = "", *, publishing: bool = False) -> Iterator[None]:
    """Turn what goes wrong between here and the hub into a UserError.

    Args:
        what: the repository.
        file: the file of it that is wanted.
        publishing: whether something is to be written there.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = _said(what, file, error, publishing)
        if said is None:
            raise
        raise UserError(said) from error


def _said(what: str, file: str, error: Exception, publishing: bool) -> str | None:
    """A sentence or two about an error; None for faults that are ours."""
    from huggingface_hub import constants, errors

    causes: list[Any] = list(with_causes(error))

    def is_a(*names: str) -> bool:  # by name: which there are depends on the version
        kinds = tuple(getattr(errors, name) for name in names if hasattr(errors, name))
        return any(isinstance(each, kinds) for each in causes)

    done = "published" if publishing else "fetched"
    status = next((each.response.status_code for each in causes if _has_status(each)), None)
    if is_a("HFValidationError"):
        return f"{what!r} is no name on the hub: give owner/name, of letters, digits, dashes and dots."
    if is_a("GatedRepoError"):
        page = f"{constants.ENDPOINT}/{what.partition('@')[0]}"
        return f"{what} is given only to those who ask: ask on {page}. {LOG_IN}"
    if is_a("RevisionNotFoundError"):
        return f"{what}: the repository is there, but not this version of it. Leave out what is behind the @."
    if is_a("RemoteEntryNotFoundError") or (status == 404 and is_a("EntryNotFoundError")):
        ours = file in ("", ADAPTER)
        meant = "it is no motion of lamp-lightning" if ours else "name the file that is meant"
        return f"{what} is on the hub, but has no {file}: {meant}."
    if status == 401 and (publishing or not is_a("RepositoryNotFoundError")):
        return f"{what} is not {done}: the hub does not accept the token (401). {LOG_IN}"
    if status == 403:
        right = "write" if publishing else "read"
        advice = "a name of your own or your organisation" if publishing else "ask its owner"
        return (
            f"{what} is not {done}: the token may not {right} there (403). Take a token with that right, and "
            f"{advice}."
        )
    if is_a("RepositoryNotFoundError"):
        return f"{what} is not on the hub, or is private. Check the id. For a private one: {LOG_IN}"
    if status == 409:
        return f"{what} is not {done}: there is such a repository, which your token may not see (409)."
    if status is not None:
        reason = next((e.server_message for e in causes if getattr(e, "server_message", None)), None)
        later = " Try again later." if status == 429 or status >= 500 else ""
        return f"{what} is not {done}: the hub answered {status}{f' ({reason})' if reason else ''}.{later}"
    if is_a("FileMetadataError"):
        return (
            f"{what} is not {done}: {constants.ENDPOINT} does not answer as a hub does. Check HF_ENDPOINT, "
            "and what stands between, such as a proxy."
        )
    network = any(_is_network(each) for each in causes)
    if is_a("OfflineModeIsEnabled") or (is_a("LocalEntryNotFoundError") and not network):
        return (
            f"{what} is not in this machine's cache, and the hub may not be asked (HF_HUB_OFFLINE=1 or "
            "local_files_only): fetch it once without that, or give an adapter's file."
        )
    if network:
        return (
            f"{what} is not {done}: the hub ({constants.ENDPOINT}) cannot be reached ({_reason(causes)}). "
            "Check the network, and try again."
        )
    return None


def _has_status(error: BaseException) -> bool:
    return isinstance(getattr(getattr(error, "response", None), "status_code", None), int)


def _is_network(error: BaseException) -> bool:
    """Whether an error is one of connections: those of Python, of httpx, or of requests."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or library.startswith(("httpx", "requests"))


def _reason(causes: Sequence[BaseException]) -> str:
    """What the deepest error of a connection says."""
    found = [each for each in causes if _is_network(each)] or list(causes)
    return first_line(found[-1]).rstrip(".")[:200]
