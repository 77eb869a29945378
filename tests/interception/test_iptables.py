"""How the backend is chosen, and what happens when a program fails."""

from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.interception import iptables
from agent.interception.iptables import Backend
from agent.interception.options import Mode, Options
from agent.interception.rules import Family, rules
from tests.interception.kernel import Kernel
from tests.interception.programs import Programs

NFT, LEGACY = Backend("nft"), Backend("legacy")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Make a directory of programs the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return Programs(tmp_path)


def in_use() -> Kernel:
    made = Kernel()
    made.tables["nat"]["OUTPUT"] = ["-p tcp -j ACCEPT"]
    return made


def test_the_nft_flavour_comes_first(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    assert iptables.choose("auto") == (NFT, "")


def test_the_legacy_flavour_is_taken_where_its_nat_table_is_in_use(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    programs.put(in_use(), "legacy")
    assert iptables.choose("auto") == (LEGACY, "")


def test_rules_of_legacy_in_another_table_do_not_count(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    kernel = Kernel()
    kernel.tables["mangle"]["OUTPUT"] = ["-p tcp -j ACCEPT"]
    programs.put(kernel, "legacy")
    assert iptables.choose("auto") == (NFT, "")


def test_a_legacy_flavour_that_the_kernel_does_not_take_is_not_taken(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    programs.put(in_use(), "legacy")
    (programs.directory / "iptables-legacy.refusal").write_text("no")
    assert iptables.choose("auto")[0] == NFT


def test_both_in_use_is_worth_a_warning(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    programs.put(in_use(), "legacy")
    programs.put(in_use(), "nft")
    backend, warning = iptables.choose("auto")
    assert backend == NFT
    assert "both apply" in warning


def test_programs_without_a_flavour_are_better_than_none(programs: Programs) -> None:
    programs.install("")
    assert iptables.choose("auto") == (Backend(""), "")
    assert Backend("").name == "iptables"


@pytest.mark.parametrize("name", ["auto", "nft", "legacy"])
def test_without_programs_the_package_is_named(name: str, programs: Programs) -> None:
    with pytest.raises(MachineError, match="install iptables"):
        iptables.choose(name)
    assert programs.directory.exists()


def test_a_flavour_can_be_asked_for(programs: Programs) -> None:
    programs.install("nft")
    programs.install("legacy")
    assert iptables.choose("legacy") == (LEGACY, "")


def test_rules_are_applied_once(programs: Programs) -> None:
    programs.install("nft")
    [first] = iptables.apply(NFT, Options(), [Family.V4])
    [second] = iptables.apply(NFT, Options(), [Family.V4])
    assert (first.is_changed, second.is_changed, first.count) == (True, False, 13)
    assert "ISTIO_OUTPUT" in programs.kernel("nft").tables["nat"]


@pytest.mark.parametrize("earlier", [Options(mode=Mode.NONE), Options(inbound=(80,))])
def test_if_one_family_fails_the_other_is_put_back(earlier: Options, programs: Programs) -> None:
    for command in ("iptables", "ip6tables"):
        programs.install("nft", command)
    iptables.apply(NFT, earlier, list(Family))
    before = programs.kernel("nft").tables
    (programs.directory / "ip6tables-nft.refusal").write_text("ip6tables-restore: no\n")
    with pytest.raises(MachineError, match="ip6tables-nft-restore says: ip6tables-restore: no"):
        iptables.apply(NFT, Options(), [Family.V4, Family.V6])
    assert programs.kernel("nft").tables == before


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("iptables-restore v1.8: can't initialize iptables table `nat': Table does not exist", "modprobe iptable_nat"),
        ("Fetching rule set generation id failed: Permission denied", "it needs CAP_NET_ADMIN and CAP_NET_RAW"),
        ("", "says: nothing; see its manual page"),
    ],
)
def test_a_failure_has_its_remedy(complaint: str, remedy: str, programs: Programs) -> None:
    programs.install("nft")
    (programs.directory / "iptables-nft.refusal").write_text(f"# Warning\n{complaint}\nError occurred at line: 2\n")
    with pytest.raises(MachineError, match="cannot change the packet filter: iptables-nft-restore says") as caught:
        iptables.apply(NFT, Options(), [Family.V4])
    assert remedy in str(caught.value)
    assert "Error occurred" not in str(caught.value)


def test_a_program_that_is_missing_or_hangs_is_named(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    with pytest.raises(MachineError, match="cannot run nowhere: it is not in PATH"):
        iptables.run(["nowhere"])
    monkeypatch.setattr(iptables, "_TIMEOUT", 0.05)
    programs.write("hangs", "#!/bin/sh\nexec /bin/sleep 60\n")
    with pytest.raises(MachineError, match="cannot run hangs: it has not ended"):
        iptables.run(["hangs"])


def test_without_nft_there_is_no_table(programs: Programs) -> None:
    assert iptables.listed_nftables() == ""
    programs.write("nft", "#!/bin/sh\nexit 1\n")
    assert iptables.listed_nftables() == ""


def test_a_script_that_changes_the_table_is_a_change(programs: Programs) -> None:
    state = programs.directory / "table"
    programs.write(
        "nft", f'#!/bin/sh\nif [ "$1" = list ]; then exec /bin/cat {state}; else exec /bin/cat > {state}; fi\n'
    )
    assert iptables.apply_nftables(Options())
    assert not iptables.apply_nftables(Options())
    assert iptables.remove_nftables()


def test_the_families_are_those_with_an_address() -> None:
    assert Family.V4 in iptables.families()


def test_the_count_is_that_of_the_rules() -> None:
    assert len(rules(Options(), Family.V4)) == 13
