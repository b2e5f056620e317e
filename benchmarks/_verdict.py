"""What was asked of a network on sparse real data, and whether it holds; and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import _scores
import _sparse
import numpy as np

BAR = ("P3+6", "P6+6", "P6+15")
"""Protocols of the bar."""
ASKED = ("FA", "NDI", "ODI", "MK")
LEAST_R = {"NDI": 0.80, "ODI": 0.85}
"""With six directions of b = 1000 alone, where NODDI cannot be fitted."""
DENSE_R = 0.95
"""On all volumes, with the dense maps."""
AIM = ("P6+6", "P15+15")
"""The error on the first is to be the conventional one on the second."""

STAND_IN = {"MK": ("MK", "MK_iso"), "peers MK": ("MK", "MSK")}
"""Conventional kurtoses: the tensor's, and one of fewer unknowns where it is not determined."""

VOLUMES, OF_LOWER = (90, 30), ("FA", "MD")
"""Weighted volumes of the scan, those with b = 1000, and metrics that come from these alone."""

NETWORKS = ("codebook", "pigment")
"""Beginnings of the names of methods that are no baselines."""

PAIRED = ("FA", "MD", "MK", "NDI", "ODI")
COLUMNS = ("FA", "MD", "MK", "MK_iso", "MSK", "NDI", "ODI")


@dataclass(frozen=True)
class Demands:
    """What is asked of a method.

    Attributes
    ----------
    label : str
        What the file calls it.
    protocols : tuple of str
        Of the bar.
    over_peers, over_careful : mapping of metric to share
        NMSE at most this share of dipy's or AMICO's, and of our own careful fit's.
    aim : tuple of str
        Metrics whose error on the first of `AIM` is to be the conventional one on the second.
    """

    label: str = "codebook"
    protocols: tuple[str, ...] = BAR
    over_peers: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(ASKED, 0.5))
    over_careful: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(ASKED, 0.8))
    aim: tuple[str, ...] = ASKED

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that something is asked of."""
        return tuple(dict.fromkeys((*self.over_peers, *self.over_careful)))


CODEBOOK = Demands()


def verdict(raw: dict, name: str, floor: dict) -> dict:
    """Hold one codebook against what was asked; `holds` puts together what does and what not."""
    others = [p for p in _sparse.PROTOCOLS if p not in BAR]
    out = {
        "bar": {p: bar(raw, name, p, floor) for p in BAR},
        "other protocols, not asked": {p: bar(raw, name, p, floor) for p in others},
        "held out": {p: held_out(raw, name, p) for p in raw if p != "all"},
        "one shell": correlations(raw, name, "P6", LEAST_R),
        "all volumes": correlations(raw, name, "all", dict.fromkeys(ASKED, DENSE_R)),
        "aim": aim(raw, name),
        "wilcoxon, NMSE against the rest": paired(raw, name),
    }
    parts = by_kind(out["bar"])
    parts["held out"] = {p: out["held out"][p] for p in BAR if p in out["held out"]}
    parts |= {key: out[key] for key in ("one shell", "all volumes", "aim")}
    return {"holds": together(parts)} | out


def by_kind(told: dict) -> dict:
    """Put what `bar` says of some protocols in the order of references."""
    parts: dict = {"NMSE, rest": {}, "NMSE, dense": {}}
    for protocol, metrics in told.items():
        for metric, kinds in metrics.items():
            for kind, entry in kinds.items():
                parts[f"NMSE, {kind}"][f"{protocol} {metric}"] = entry
    return parts


def together(parts: dict) -> dict:
    """Tell of every demand whether it holds, how often, and where it does not."""
    out = {}
    for key, entries in parts.items():
        lost = [k for k, entry in entries.items() if not entry["holds"]]
        won = len(entries) - len(lost)
        out[key] = {"holds": bool(entries) and not lost, "won": won, "of": len(entries)}
        out[key]["not"] = lost
    return out


def mean(raw: dict, protocol: str, method: str, reference: str, key: str, column: int = 0):
    """Mean of a score over the subsets; None if there is none."""
    values = raw.get(protocol, {}).get(method, {}).get(reference, {}).get(key)
    return None if values is None else float(np.mean([v[column] for v in values]))


def lowest(raw: dict, protocol: str, method: str, reference: str, metric: str) -> dict | None:
    """Smallest NMSE among a metric's stand-ins, and which it was."""
    key = f"peers {metric}" if method == "peers" else metric
    names = STAND_IN.get(key, (metric,))
    if method == "peers":  # the tensor's where there is one: MSK is another metric
        names = names[:1] if mean(raw, protocol, method, reference, f"{metric} tissue") else names
    found = [(mean(raw, protocol, method, reference, f"{n} tissue"), n) for n in names]
    found = [f for f in found if f[0] is not None]
    return {"NMSE": min(found)[0], "metric": min(found)[1]} if found else None


def bar(raw: dict, name: str, protocol: str, floor: dict, asked: Demands = CODEBOOK) -> dict:
    """NMSE of a method beside those of fits: metric -> reference -> numbers, and `holds`."""
    out: dict = {}
    for metric in asked.metrics:
        for kind in ("rest", "dense"):
            mine = mean(raw, protocol, name, f"{kind}, ours", f"{metric} tissue")
            peer = lowest(raw, protocol, "peers", f"{kind}, peers", metric)
            careful = lowest(raw, protocol, "ours", f"{kind}, ours", metric)
            if mine is None or peer is None or careful is None:
                continue
            noise = _noise(floor, protocol, metric) if kind == "rest" else 0.0
            net = (mine - noise) / max(careful["NMSE"] - noise, 1e-9)
            entry = {
                asked.label: mine,
                f"{asked.label}, peers' reference": _told(raw, name, protocol, kind, metric),
                "peers, own reference": peer["NMSE"],
                "careful": careful["NMSE"],
                "noise of the reference": noise,
                "over peers": mine / peer["NMSE"],
                "over careful": mine / careful["NMSE"],
                "over careful, noise of the reference taken off": net,
            }
            entry = {k: v if v is None else _scores.short(v) for k, v in entry.items()}
            entry["best of all baselines"] = _best(raw, name, protocol, kind, metric)
            entry["kurtosis of peers, careful"] = [peer["metric"], careful["metric"]]
            if metric != "MK":
                del entry["kurtosis of peers, careful"]
            entry["holds"] = (
                mine <= asked.over_peers.get(metric, np.inf) * peer["NMSE"]
                and mine <= asked.over_careful.get(metric, np.inf) * careful["NMSE"]
            )
            out.setdefault(metric, {})[kind] = entry
    return out


def _told(raw: dict, name: str, protocol: str, kind: str, metric: str) -> float | None:
    """Return the NMSE against dipy's and AMICO's reference."""
    return mean(raw, protocol, name, f"{kind}, peers", f"{metric} tissue")


def _noise(floor: dict, protocol: str, metric: str) -> float:
    """NMSE of the reference from the volumes left out by its own noise: fewer volumes, more."""
    _, low, high = _sparse.PROTOCOLS[protocol]
    every, lower = VOLUMES
    whole, seen = (lower, low) if metric in OF_LOWER else (every, low + high)
    return floor["ours"][metric]["floor"] * whole / (whole - seen)


def _best(raw: dict, name: str, protocol: str, kind: str, metric: str) -> list:
    """Return the NMSE of the best baseline, against our reference."""
    found = [
        (entry["NMSE"], method)
        for method in raw[protocol]
        if not method.startswith(NETWORKS)
        and (entry := lowest(raw, protocol, method, f"{kind}, ours", metric)) is not None
    ]
    return [_scores.short(min(found)[0]), min(found)[1]]


def held_out(raw: dict, name: str, protocol: str, asked: Demands = CODEBOOK) -> dict:
    """RMSE of the volumes left out, beside every conventional prediction."""
    mine = raw[protocol].get(name, {}).get("held out", {})
    if not mine:
        return {asked.label: None, "why": "there is no prediction of signals", "holds": False}
    value = float(np.mean([v[2] for v in mine[asked.label]]))
    others = {
        f"{method} {model}": float(np.mean([v[2] for v in values]))
        for method in ("peers", "ours")
        for model, values in raw[protocol].get(method, {}).get("held out", {}).items()
    }
    best = min(others, key=others.get)  # type: ignore[arg-type]
    every = {
        f"{method} {model}": float(np.mean([v[2] for v in values]))
        for method, places in raw[protocol].items()
        if not method.startswith(NETWORKS)
        for model, values in places.get("held out", {}).items()
    }
    first = min(every, key=every.get)  # type: ignore[arg-type]
    return {
        asked.label: _scores.short(value),
        "best conventional": best,
        "its RMSE": _scores.short(others[best]),
        "best of all baselines": [_scores.short(every[first]), first],
        "holds": value <= others[best],
    }


def correlations(raw: dict, name: str, protocol: str, least: dict[str, float]) -> dict:
    """Hold correlations with the dense maps against the least ones asked for."""
    out = {}
    for metric, bar in least.items():
        r = {
            whose: mean(raw, protocol, name, f"dense, {whose}", f"{metric} tissue", 3)
            for whose in ("ours", "peers")
        }
        if r["ours"] is not None:
            entry: dict = {k: v if v is None else _scores.short(v) for k, v in r.items()}
            out[metric] = entry | {"holds": r["ours"] >= bar}
    return out


def aim(raw: dict, name: str, asked: Demands = CODEBOOK) -> dict:
    """Hold the error on few volumes against the conventional one on many."""
    few, many = AIM
    out = {}
    for metric in asked.aim:
        mine = mean(raw, few, name, "rest, ours", f"{metric} tissue")
        peer = lowest(raw, many, "peers", "rest, peers", metric)
        careful = lowest(raw, many, "ours", "rest, ours", metric)
        if mine is not None and peer and careful:
            entry: dict = {f"{asked.label} {few}": mine, f"peers {many}": peer["NMSE"]}
            entry[f"careful {many}"] = careful["NMSE"]
            entry = {k: _scores.short(v) for k, v in entry.items()}
            out[metric] = entry | {"holds": mine <= min(peer["NMSE"], careful["NMSE"])}
    return out


def paired(raw: dict, name: str) -> dict:
    """Wilcoxon over subsets and slices: protocol -> metric -> method -> p, better in k of n.

    dipy and AMICO are held against their own reference, kurtoses as in `bar` (`STAND_IN`).
    """
    out: dict = {}
    for protocol in (p for p in raw if p != "all"):
        mine = raw[protocol].get(name, {}).get("rest, ours", {})
        for method, places in raw[protocol].items():
            reference = "rest, peers" if method == "peers" else "rest, ours"
            for metric in PAIRED if method != name else ():
                its = lowest(raw, protocol, method, reference, metric)
                ours = mine.get(f"{metric} slices")
                if its is None or ours is None:
                    continue
                theirs = places[reference][f"{its['metric']} slices"]
                a, b = np.ravel(ours[: len(theirs)]), np.ravel(theirs)
                p = _scores.wilcoxon(list(a), list(b))
                place = out.setdefault(protocol, {}).setdefault(metric, {})
                place[method] = [p, int((a < b).sum()), len(a)]
    return out


def table(raw: dict) -> str:
    """NMSE / r in tissue of every method, against the fit of the rest and of all volumes.

    Each against the reference of its kind: dipy's and AMICO's against theirs, all others against
    ours; below, V1's angle and the RMSE of the volumes left out.
    """
    lines = []
    for protocol, methods in raw.items():
        for kind in ("rest", "dense"):
            if protocol == "all" and kind == "rest":
                continue
            lines.append(f"{protocol}, {kind}".ljust(26) + "".join(c.rjust(17) for c in COLUMNS))
            for method in methods:
                name = f"{kind}, {'peers' if method == 'peers' else 'ours'}"
                lines.append(_row(raw, protocol, method, name))
                if method == "peers":
                    lines.append(_row(raw, protocol, method, f"{kind}, ours"))
    return "\n".join(lines)


def _row(raw: dict, protocol: str, method: str, reference: str) -> str:
    cells = []
    for metric in COLUMNS:
        nmse, r = (mean(raw, protocol, method, reference, f"{metric} tissue", k) for k in (0, 3))
        cells.append("-" if nmse is None else f"{nmse:.4f} / {r:.3f}")
    angle = mean(raw, protocol, method, reference, "V1 angle")
    held = raw[protocol][method].get("held out", {})
    best = {k: float(np.mean([v[2] for v in values])) for k, values in held.items()}
    rmse = f"{min(best.values()):.4f} {min(best, key=best.get)}" if best else ""  # type: ignore[arg-type]
    label = "peers (our reference)" if (method, reference[-4:]) == ("peers", "ours") else method
    tail = f"  V1 {angle:.1f} deg" if angle is not None else ""
    return f"  {label}".ljust(26) + "".join(c.rjust(17) for c in cells) + tail + f"  RMSE {rmse}"
