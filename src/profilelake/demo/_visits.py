"""What a person does in one visit of the shop, and which identifiers each call carries."""

import random
import uuid
from dataclasses import dataclass, field
from typing import Final

from profilelake.demo import catalogue
from profilelake.demo.truth import Truth
from profilelake.semantics.identifiers import Identifier

KIOSK_SHARE: Final = 0.01
"""Share of visits that happen at a kiosk in a store, under its one anonymous id."""
COOKIE_CLEARED_SHARE: Final = 0.05
BACKEND_ORDER_SHARE: Final = 0.25
"""Share of orders reported by the shop's own server: user id only, no device."""
BROKEN_BACKEND_SHARE: Final = 0.08
"""Share of those whose user id was lost on the way and reads `null` or `-1`."""
ALIAS_SHARE: Final = 0.05
CART_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an SDK client: `getattr(client, method)(**arguments)`."""

    method: str
    arguments: dict[str, object]


@dataclass(slots=True)
class Device:
    """A browser or an app on a telephone; `signed_in` is the person its SDK takes its user for."""

    kind: str
    anonymous_id: str
    user_agent: str
    kiosk: bool = False
    device_id: str | None = None
    advertising_id: str | None = None
    push_token: str | None = None
    app_version: str = ""
    signed_in: int | None = None

    def identifiers(self) -> tuple[Identifier, ...]:
        """Return what every call from this device carries, as identity rules name it."""
        found = [Identifier("anonymous_id", self.anonymous_id)]
        if self.device_id is not None:
            found.append(Identifier(f"{self.kind}.id", self.device_id))
        if self.advertising_id is not None:
            found.append(Identifier(f"{self.kind}.idfa", self.advertising_id))
        if self.push_token is not None:
            found.append(Identifier(f"{self.kind}.push_token", self.push_token))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Organisation:
    """A business customer; its people order under one group id."""

    number: int
    industry: str
    employees: int

    @property
    def group_id(self) -> str:
        """Return the id used in group calls."""
        return f"org-{self.number:04d}"


@dataclass(slots=True)
class Person:
    """One customer: intentions drawn once, and what has happened so far."""

    number: int
    devices: list[Device]
    registers: bool
    leaves_email: bool
    changes_email: bool
    private_windows: bool
    city: str
    organisation: Organisation | None = None
    registered: bool = False
    email_changed: bool = False
    grouped: bool = False
    plan: int = 0
    orders: int = 0
    spent_cents: int = 0
    visits: int = 0
    cart: list[dict[str, object]] = field(default_factory=list)

    @property
    def handle(self) -> str:
        """Return the name the person goes by; nobody here has another one."""
        return f"shopper-{self.number:06d}"

    @property
    def user_id(self) -> str:
        """Return the id the shop's database gives at sign-up."""
        return f"u-{self.number:06d}"

    @property
    def email(self) -> str:
        """Return the address in use now."""
        return f"{self.handle}@{'example.net' if self.email_changed else 'example.org'}"


def visit(
    rng: random.Random, person: Person, kiosk: Device, start: int, length: int, truth: Truth
) -> list[tuple[int, Call]]:
    """Return the `length` calls of one visit with their times (milliseconds since the data's start)."""
    device = kiosk if rng.random() < KIOSK_SHARE else rng.choice(person.devices)
    if (
        device.kind == "web"
        and not device.kiosk
        and (person.private_windows or rng.random() < COOKIE_CLEARED_SHARE)
    ):
        device.anonymous_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        device.signed_in = None
    if device.signed_in not in (None, person.number):
        # Somebody else of the household: whoever was signed in is signed out, the browser stays the same.
        device.signed_in = None
    person.visits += 1
    scene = _Scene(rng, person, device, start, length, truth)
    scene.play()
    if device.kiosk:
        device.signed_in = None
    return scene.calls


class _Scene:
    """Builds the calls of one visit, never more than `length`."""

    def __init__(
        self, rng: random.Random, person: Person, device: Device, start: int, length: int, truth: Truth
    ) -> None:
        self.calls: list[tuple[int, Call]] = []
        self._rng = rng
        self._person = person
        self._device = device
        self._at = start
        self._length = length
        self._truth = truth
        self._own = device.identifiers()
        self._user = Identifier("user_id", person.user_id)
        self._address = f"192.0.2.{1 + person.number % 250}"
        self._viewed: dict[str, object] | None = None
        self._campaign = rng.choice(catalogue.CAMPAIGNS) if rng.random() < 0.2 else None

    def play(self) -> None:
        """Play the visit: arrive, perhaps sign in, then browse and buy until `length` is reached."""
        self._arrive()
        if self._left and self._rng.random() < 0.75:
            self._say_who()
        while self._left:
            self._browse()

    @property
    def _left(self) -> int:
        return self._length - len(self.calls)

    @property
    def _signed_in(self) -> bool:
        return self._device.signed_in == self._person.number

    def _arrive(self) -> None:
        if self._device.kind != "web":
            self._call("screen", name="Home", properties={"tab": "start"})
            return
        self._page(*self._rng.choice(catalogue.PAGES))

    def _page(self, name: str, path: str, category: str) -> None:
        properties: dict[str, object] = {
            "path": path,
            "url": f"https://{catalogue.HOST}{path}",
            "title": name,
        }
        self._call("page", name=name, category=category, properties=properties, path=path)

    def _say_who(self) -> None:
        """Register, sign in, leave an address as a guest, or update what is known: whatever fits the person."""
        person = self._person
        if person.registers:
            if not person.registered and self._rng.random() < 0.7:
                self._register()
            elif person.registered and not self._signed_in and self._rng.random() < 0.8:
                self._device.signed_in = person.number
                self._identify(sign_in_count=person.visits)
            elif self._signed_in:
                self._update()
            if self._signed_in and person.organisation is not None and self._left:
                self._group(person.organisation)
        elif person.leaves_email and self._rng.random() < 0.5:
            self._identify()

    def _register(self) -> None:
        person = self._person
        person.registered = True
        self._device.signed_in = person.number
        self._identify(
            username=person.handle,
            plan=catalogue.PLANS[0],
            newsletter=self._rng.random() < 0.4,
            city=person.city,
        )
        if self._left and self._rng.random() < ALIAS_SHARE:
            self._alias()

    def _update(self) -> None:
        person = self._person
        draw = self._rng.random()
        if person.changes_email and not person.email_changed and draw < 0.5:
            person.email_changed = True
            self._identify()
        elif draw < 0.10 and person.plan + 1 < len(catalogue.PLANS):
            person.plan += 1
            self._identify(plan=catalogue.PLANS[person.plan])
        elif draw < 0.20:
            person.city = self._rng.choice(catalogue.CITIES)
            self._identify(city=person.city)
        elif draw < 0.25:
            self._identify(newsletter=None)
        elif draw < 0.40:
            self._identify(orders=person.orders, lifetime_value=person.spent_cents / 100)
        if (
            person.organisation is not None
            and self._left
            and (not person.grouped or self._rng.random() < 0.1)
        ):
            self._group(person.organisation)

    def _identify(self, **traits: object) -> None:
        # A third of all forms are filled in by telephones that write the first letter large.
        email = self._person.email
        typed = email.capitalize() if self._rng.random() < 0.33 else email
        self._call("identify", traits={"email": typed, **traits}, also=(Identifier("email", email),))

    def _group(self, organisation: Organisation) -> None:
        if self._person.grouped and self._rng.random() < 0.7:
            return
        self._person.grouped = True
        self._truth.organisations.add(Identifier("group_id", organisation.group_id))
        traits: dict[str, object] = {
            "name": organisation.group_id,
            "industry": organisation.industry,
            "employees": organisation.employees + self._person.visits,
        }
        self._call("group", group_id=organisation.group_id, traits=traits)

    def _alias(self) -> None:
        self._at += 40
        self._truth.note(self._person.number, (self._user,))
        arguments: dict[str, object] = {
            "previous_id": self._device.anonymous_id,
            "user_id": self._person.user_id,
            "context": self._context(None),
        }
        self.calls.append((self._at, Call("alias", arguments)))

    def _browse(self) -> None:
        cart = self._person.cart
        if cart and self._left >= 2 and self._rng.random() < 0.22:
            self._buy()
            return
        if self._viewed is not None and len(cart) < CART_MAX and self._rng.random() < 0.3:
            item = {**self._viewed, "quantity": self._rng.choices((1, 2, 3), (80, 15, 5))[0]}
            cart.append(item)
            self._track("Product Added", {"cart_id": f"cart-{self._person.number:06d}", **item})
            self._viewed = None
            return
        draw = self._rng.random()
        if draw < 0.15:
            self._track("Products Searched", {"query": self._rng.choice(catalogue.SEARCHES)})
        elif draw < 0.30:
            self._track("Product List Viewed", {"category": self._rng.choice(catalogue.PRODUCTS)["category"]})
        elif draw < 0.42 and self._device.kind == "web":
            self._page(*self._rng.choice(catalogue.PAGES))
        else:
            self._viewed = self._rng.choice(catalogue.PRODUCTS)
            self._track("Product Viewed", {**self._viewed, "currency": catalogue.CURRENCY})

    def _buy(self) -> None:
        person = self._person
        products = list(person.cart)
        person.cart.clear()
        person.orders += 1
        order: dict[str, object] = {
            "order_id": f"o-{person.number:06d}-{person.orders:03d}",
            "currency": catalogue.CURRENCY,
        }
        cents = sum(round(_number(p["price"]) * 100) * int(_number(p["quantity"])) for p in products)
        shipping = 0 if cents >= 5_000 else 490
        self._track("Checkout Started", {**order, "revenue": cents / 100, "products": products})
        if not self._signed_in and person.leaves_email and self._left >= 2:
            self._identify()
        order |= {
            "revenue": cents / 100,
            "shipping": shipping / 100,
            "tax": round(cents * 0.19) / 100,
            "total": (cents + shipping + round(cents * 0.19)) / 100,
            "products": products,
        }
        person.spent_cents += cents
        if self._signed_in and self._rng.random() < BACKEND_ORDER_SHARE:
            self._backend_order(order)
        else:
            self._track("Order Completed", order)

    def _backend_order(self, order: dict[str, object]) -> None:
        self._at += 350
        user_id = self._person.user_id
        if self._rng.random() < BROKEN_BACKEND_SHARE:
            user_id = self._rng.choice(("null", "-1"))
            self._truth.junk.add(Identifier("user_id", user_id))
        self._truth.note(self._person.number, (Identifier("user_id", user_id),))
        arguments: dict[str, object] = {
            "user_id": user_id,
            "event": "Order Completed",
            "properties": order,
            "context": {"channel": "server"},
        }
        self.calls.append((self._at, Call("track", arguments)))

    def _track(self, event: str, properties: dict[str, object]) -> None:
        self._call("track", event=event, properties=properties)

    def _call(
        self, method: str, *, also: tuple[Identifier, ...] = (), path: str | None = None, **arguments: object
    ) -> None:
        self._at += 1_000 + int(self._rng.expovariate(1 / 25_000))
        arguments["anonymous_id"] = self._device.anonymous_id
        identifiers = self._own + also
        if self._signed_in:
            arguments["user_id"] = self._person.user_id
            identifiers = (self._user, *identifiers)
        arguments["context"] = self._context(path)
        self._truth.note(self._person.number, identifiers)
        self.calls.append((self._at, Call(method, arguments)))

    def _context(self, path: str | None) -> dict[str, object]:
        device = self._device
        if device.kind == "web":
            context: dict[str, object] = {"userAgent": device.user_agent, "locale": "en-GB"}
            if path is not None:
                context["page"] = {"path": path, "url": f"https://{catalogue.HOST}{path}"}
            if self._campaign is not None:
                context["campaign"] = {"name": self._campaign, "source": "newsletter", "medium": "email"}
        else:
            details: dict[str, object] = {"id": device.device_id, "type": device.kind}
            if device.advertising_id is not None:
                details |= {"advertisingId": device.advertising_id, "adTrackingEnabled": True}
            if device.push_token is not None:
                details["token"] = device.push_token
            context = {
                "device": details,
                "app": {"name": "shop", "version": device.app_version},
                "locale": "en-GB",
            }
        context["ip"] = self._address
        if self._person.organisation is not None and self._person.grouped:
            context["groupId"] = self._person.organisation.group_id
        return context


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a price or quantity of the catalogue is not a number: {value!r}")
    return value
