"""Who gets in, how a sign-in ends, and what the answers do not give away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie

import httpx
import pytest
from managed_session_devkit.control_plane import ControlPlane

from ..rights import expect_refusals
from ..support.waiting import eventually
from .site import STATIC_TOKEN, VIEWER, Site, dashboard

PROTECTED = ["api/board", "api/stream", "api/viewer", "api/sessions/any"]


async def signs_in(site: Site, token: str, **headers: str) -> httpx.Response:
    async with site.client() as client:
        return await client.post("sign-in", data={"token": token}, headers=headers)


async def new_account(site: Site, name: str, *, may_list: bool) -> None:
    where = f"--namespace={site.system_namespace}"
    await site.control_plane.kubectl("create", "serviceaccount", name, where)
    if may_list:
        await site.kubectl(
            "create", "rolebinding", name, "--clusterrole=managed-sessions-view",
            f"--serviceaccount={site.system_namespace}:{name}",
        )  # fmt: skip


@pytest.mark.parametrize("path", PROTECTED)
async def test_nothing_is_answered_without_a_sign_in(site: Site, path: str) -> None:
    async with site.client() as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (401, {"error": "sign in"})
        client.cookies.set("managed-sessions-viewer", "made-up")
        assert (await client.get(path)).status_code == 401


async def test_page_leads_to_the_sign_in_and_back(site: Site) -> None:
    async with site.client() as client:
        away = await client.get("")
        assert (away.status_code, away.headers["location"]) == (303, "sign-in")
        form = await client.get("sign-in")
        assert "<form" in form.text
        assert f"--namespace={site.system_namespace} " in form.text
    async with site.viewer() as client:
        assert (await client.get("sign-in")).headers["location"] == "./"
        assert (await client.get("")).status_code == 200
        assert (await client.get("api/viewer")).json()["user"].endswith(f":{VIEWER}")


async def test_cookie_is_out_of_reach_of_scripts_and_other_sites_and_says_nothing_of_the_token(
    site: Site,
) -> None:
    token = await site.token()
    answer = await signs_in(site, token)
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert not cookie["secure"], "it came over plain HTTP"
    assert 3000 < int(cookie["max-age"]) <= 3600, "it ends with the token"
    assert not set(token.split(".")) & {cookie.value}
    over_tls = await signs_in(site, token, Origin="https://sessions.example.com")
    (cookie,) = SimpleCookie(over_tls.headers["set-cookie"]).values()
    assert cookie["secure"]


@pytest.mark.parametrize("token", ["", " ", "not-a-token", "eyJhbGciOiJub25lIn0.e30.", "x" * 16_000, "a\nb"])
async def test_invalid_token_is_refused(site: Site, token: str) -> None:
    answer = await signs_in(site, token)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "does not accept this token" in answer.text


async def test_user_without_the_right_is_told_which_one_is_missing(site: Site) -> None:
    await new_account(site, "stranger", may_list=False)
    answer = await signs_in(site, await site.token("stranger"))
    assert answer.status_code == 403
    assert f"system:serviceaccount:{site.system_namespace}:stranger may not list" in answer.text
    assert "managed-sessions-view" in answer.text


async def test_user_with_the_viewers_role_gets_in_and_is_out_once_the_role_is_gone(site: Site) -> None:
    await new_account(site, "guest", may_list=True)
    async with site.viewer(await site.token("guest")) as client:
        board = (await client.get("api/board")).json()
        async with site.stream(client, board["position"]) as stream:
            await stream.next("state")
            await site.kubectl("delete", "rolebinding", "guest")
            await stream.next("signed-out")
        assert (await client.get("api/board")).status_code == 401


async def test_signing_out_ends_the_sign_in_and_its_streams(site: Site) -> None:
    async with site.viewer() as client:
        board = (await client.get("api/board")).json()
        cookie = client.cookies["managed-sessions-viewer"]
        async with site.stream(client, board["position"]) as stream:
            await stream.next("state")
            assert (await client.post("sign-out")).headers["location"] == "sign-in"
            await stream.next("signed-out")
        client.cookies.set("managed-sessions-viewer", cookie)
        assert (await client.get("api/board")).status_code == 401


async def test_form_of_another_site_is_refused(site: Site) -> None:
    answer = await signs_in(site, await site.token(), **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_malformed_forms_are_refused(site: Site) -> None:
    async with site.client() as client:
        assert (await client.post("sign-in", json={"token": "x"})).status_code == 400
        assert (await client.post("sign-in", data={"token": "x" * 50_000})).status_code == 400


async def test_every_answer_forbids_scripts_from_elsewhere_framing_and_sniffing(site: Site) -> None:
    async with site.viewer() as client:
        for path in ("", "assets/app.js", "api/board", "api/nothing"):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
        assert (await client.get("api/board")).headers["cache-control"] == "no-store"
        first = await client.get("assets/app.js")
        again = await client.get("assets/app.js", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304


@pytest.fixture(scope="module")
async def strict(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A dashboard that allows few failed sign-ins."""
    folder = tmp_path_factory.mktemp("strict")
    async with dashboard(control_plane, folder, dashboard_failed_sign_ins="3") as running:
        yield running


async def test_failed_sign_ins_are_limited_and_valid_ones_are_not(strict: Site) -> None:
    token = await strict.token()
    for _ in range(4):
        assert (await signs_in(strict, token)).status_code == 303
    assert [(await signs_in(strict, "wrong")).status_code for _ in range(4)] == [401, 401, 401, 429]
    limited = await signs_in(strict, token)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
    assert 'sign_ins_total{outcome="limited"} 2.0' in await strict.metrics()


async def test_static_token_works_without_any_right_to_ask_the_cluster(strict: Site) -> None:
    binding = f"managed-session-dashboard-{strict.system_namespace}"
    await strict.pod.restart()  # it has forgotten failed sign-ins
    with expect_refusals("", "managed-session-dashboard"):
        await strict.control_plane.kubectl("delete", "clusterrolebinding", binding)

        async def unknown() -> bool:
            answer = await signs_in(strict, "some-token")
            return answer.status_code == 503 and "ClusterRoleBinding" in answer.text

        await eventually("the dashboard says what it lacks", unknown)
    strict.pod.set_credential("dashboard-token", f"other\n{STATIC_TOKEN}")
    async with strict.viewer(STATIC_TOKEN) as client:
        assert (await client.get("api/viewer")).json()["user"] == "static token"
        strict.pod.set_credential("dashboard-token", "other")

        async def out() -> bool:
            return (await client.get("api/viewer")).status_code == 401

        await eventually("a removed token ends its sign-ins", out)
