"""What the shop sells, and the words it uses: constants without any behaviour."""

from typing import Final

CURRENCY: Final = "EUR"
HOST: Final = "shop.example.org"

PRODUCTS: Final[tuple[dict[str, object], ...]] = tuple(
    {
        "product_id": f"p-{number:03d}",
        "sku": f"{category[:3].upper()}-{number:03d}",
        "category": category,
        "name": name,
        "brand": brand,
        "price": price,
    }
    for number, (category, name, brand, price) in enumerate(
        (
            ("kitchen", "Kettle 1.7 l", "Alba", 39.90),
            ("kitchen", "Moka pot, six cups", "Alba", 27.50),
            ("kitchen", "Chef's knife 20 cm", "Corvo", 64.00),
            ("kitchen", "Cast-iron pan 26 cm", "Corvo", 49.00),
            ("kitchen", "Mixing bowls, set of three", "Plain", 22.00),
            ("kitchen", "Kitchen scale", "Plain", 18.90),
            ("kitchen", "Glass storage jars, set of five", "Plain", 31.00),
            ("kitchen", "Tea towels, linen", "Nordlin", 14.50),
            ("home", "Reading lamp", "Lumo", 59.00),
            ("home", "Wool blanket", "Nordlin", 89.00),
            ("home", "Cotton bed set", "Nordlin", 74.00),
            ("home", "Wall clock", "Lumo", 34.00),
            ("home", "Storage basket", "Plain", 19.00),
            ("home", "Curtain, blackout", "Nordlin", 42.00),
            ("home", "Door mat", "Plain", 16.50),
            ("home", "Candle, beeswax", "Alba", 9.90),
            ("garden", "Watering can 9 l", "Verda", 24.00),
            ("garden", "Pruning shears", "Verda", 29.50),
            ("garden", "Herb seeds, box of twelve", "Verda", 12.90),
            ("garden", "Garden gloves", "Verda", 11.00),
            ("garden", "Bird house", "Plain", 33.00),
            ("garden", "Folding chair", "Lumo", 54.00),
            ("outdoor", "Rucksack 24 l", "Corvo", 95.00),
            ("outdoor", "Steel bottle 0.75 l", "Corvo", 26.00),
            ("outdoor", "Head torch", "Lumo", 38.00),
            ("outdoor", "Rain jacket", "Nordlin", 129.00),
            ("outdoor", "Picnic blanket", "Plain", 35.00),
            ("outdoor", "Camping stove", "Corvo", 58.00),
            ("office", "Notebook, dotted", "Plain", 8.50),
            ("office", "Fountain pen", "Alba", 32.00),
            ("office", "Desk mat, felt", "Nordlin", 27.00),
            ("office", "Monitor stand", "Lumo", 69.00),
        ),
        start=1,
    )
)

SEARCHES: Final = (
    "kettle",
    "wool blanket",
    "lamp",
    "rucksack",
    "pan",
    "gift",
    "seeds",
    "notebook",
    "rain jacket",
    "knife",
)

PAGES: Final = (
    ("Home", "/", "Shop"),
    ("New arrivals", "/new", "Shop"),
    ("Sale", "/sale", "Shop"),
    ("Delivery and returns", "/delivery", "Help"),
    ("About us", "/about", "Company"),
    ("Care guides", "/guides", "Help"),
)

CITIES: Final = (
    "Berlin",
    "Lisbon",
    "Lyon",
    "Milan",
    "Oslo",
    "Prague",
    "Rotterdam",
    "Seville",
    "Vienna",
    "Warsaw",
)
PLANS: Final = ("basic", "plus", "club")
CAMPAIGNS: Final = ("spring-letter", "search-brand", "retargeting", "partner-blog")
INDUSTRIES: Final = ("hospitality", "design", "education", "events", "software")

BROWSERS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
)
APP_VERSIONS: Final = ("4.8.1", "4.9.0", "5.0.2")
