"""The names, places and companies of the sample account. All are made up."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A country, in its own language, with names that are common there."""

    country: str
    cities: tuple[tuple[str, str], ...]  # (city, state)
    streets: tuple[str, ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    dialing_code: str


PLACES = (
    Place(
        "United States",
        (("San Rafael", "CA"), ("Boise", "ID"), ("Austin", "TX"), ("Duluth", "MN")),
        ("Kendra Way", "Maple Street", "5th Avenue", "O'Neill Road"),
        ("Ada", "James", "Mary-Jane", "Marcus", "Denise", "Tyrone", "Beth", "Carlos"),
        ("Example", "O'Brien", "Washington", "Garcia", "Smith-Jones", "Lee", "Novak"),
        "+1",
    ),
    Place(
        "Australia",
        (("Sydney", "NSW"), ("Hobart", "TAS"), ("Fremantle", "WA")),
        ("Crown Street", "Banksia Lane", "The Esplanade"),
        ("Mick", "Sheila", "Lachlan", "Matilda", "Bronwyn", "Noah"),
        ("Taylor", "Nguyen", "Walker", "McKenzie", "Papadopoulos"),
        "+61",
    ),
    Place(
        "Deutschland",
        (("Köln", "NRW"), ("München", "BY"), ("Görlitz", "SN")),
        ("Königsallee 12", "Gänsemarkt 3", "Lindenstraße 44"),
        ("Jürgen", "Anneliese", "Björn", "Käthe", "Sören", "Zoë"),
        ("Müller", "Weiß", "Groß", "Schäfer", "von der Heide"),
        "+49",
    ),
    Place(
        "Ísland",
        (("Reykjavík", ""), ("Ísafjörður", "")),
        ("Laugavegur 7", "Þórsgata 1"),
        ("Björk", "Þór", "Sigríður", "Ægir"),
        ("Guðmundsdóttir", "Jónsson", "Þorláksdóttir"),
        "+354",
    ),
    Place(
        "Việt Nam",
        (("Hà Nội", ""), ("Đà Nẵng", "")),
        ("Phố Hàng Bạc", "Đường Lê Lợi"),
        ("Thị Hương", "Văn Đức", "Ngọc Ánh"),
        ("Nguyễn", "Trần", "Đặng"),
        "+84",
    ),
    Place(
        "Россия",
        (("Москва", ""), ("Нижний Новгород", "")),
        ("Тверская ул., 5", "пр. Ленина, 18"),
        ("Анна", "Дмитрий", "Алёна", "Фёдор"),
        ("Иванова", "Щукин", "Журавлёв"),
        "+7",
    ),
    Place(
        "Ελλάδα",
        (("Αθήνα", ""), ("Θεσσαλονίκη", "")),
        ("Ερμού 21", "Αγίας Σοφίας 3"),
        ("Ελένη", "Γιώργος", "Άννα"),
        ("Παπαδοπούλου", "Νικολαΐδης"),
        "+30",
    ),
    Place(
        "مصر",
        (("القاهرة", ""), ("الإسكندرية", "")),
        ("شارع التحرير", "طريق الحرية"),
        ("فاطمة", "محمد", "ليلى"),
        ("الشريف", "حسن"),
        "+20",
    ),
    Place(
        "ישראל",
        (("תל אביב", ""), ("חיפה", "")),
        ("רחוב הרצל 9", "שדרות רוטשילד"),
        ("נועה", "דוד"),
        ("כהן", "לוי"),
        "+972",
    ),
    Place(
        "भारत",
        (("मुंबई", "MH"), ("कोच्चि", "KL")),
        ("महात्मा गांधी मार्ग",),
        ("प्रिया", "अर्जुन", "लक्ष्मी"),
        ("शर्मा", "नायर"),
        "+91",
    ),
    Place(
        "日本",
        (("札幌市", "北海道"), ("京都市", "京都府")),
        ("中央区1-2-3", "四条通"),
        ("さくら", "健太", "美咲"),
        ("佐藤", "髙橋", "渡邉"),
        "+81",
    ),
    Place(
        "中国",
        (("上海", ""), ("成都", "四川")),
        ("南京路100号", "人民路"),
        ("伟", "秀英", "𠮷娜"),
        ("王", "李", "欧阳"),
        "+86",
    ),
    Place(
        "대한민국",
        (("서울", ""), ("부산", "")),
        ("세종대로 110", "해운대로"),
        ("지우", "민준"),
        ("김", "박"),
        "+82",
    ),
    Place(
        "ประเทศไทย",
        (("กรุงเทพฯ", ""),),
        ("ถนนสุขุมวิท",),
        ("มาลี", "สมชาย"),
        ("ใจดี", "ศรีสุข"),
        "+66",
    ),
)

COMPANIES = (
    "Example Designs", "Bluegum & Sons", "Nordlicht GmbH", "Café Crème SARL", "Tasman Freight",
    "Quokka Robotics", "Hinterland Dental", "株式会社みどり", "ООО «Ромашка»", "Ferro/Fino Pty Ltd",
    '"Quoted" Books', "Smørrebrød ApS", "Delta\\Epsilon", "Πλοίο ΑΕ", "Lotus 🪷 Spa", "Acme, Inc.",
)  # fmt: skip
INDUSTRIES = ("Technology", "Education", "Health Care", "Food & Beverage", "Freight", "Retail")
JOBS = ("CEO", "Head of Marketing", "Buyer", "Engineer", "Directrice générale", "Vet", "")
SALUTATIONS = ("Ms.", "Mr.", "Mx.", "Dr.", "Prof.", "")
STATUSES = ("Nurture", "Open", "Qualified", "Customer", "Unqualified")
LEAD_SOURCES = ("Autopilot", "Web form", "Trade fair", "Referral", "Import: March.csv")
LIST_TITLES = (
    "Build your journey", "Newsletter", "Customers", "Trade fair 2016", "1k.csv", "____NEW____",
    "Événements", "顧客リスト", "Do not call", "Beta testers", "Partners 🤝", "VIP \"gold\"",
)  # fmt: skip
SEGMENT_TITLES = (
    "Opened in the last month", "Ladies", "Gentlemen", "Bounced", "Never visited", "Big companies",
    "Россия и СНГ", "NPS promoters", "Unsubscribed", "日本のお客様", "Clicked & converted", "New leads",
)  # fmt: skip
PAGES = ("//site", "//site/dashboard", "//site/pricing", "//site/blog/été?utm=a&b", "//site/form")

JOURNEYS = (
    "Onboarding Journey", "Win back", "Trade fair follow-up", "Renewal in 30 days", "Accueil été",
    "Dankeschön-Reise", "新規のお客様", "Abandoned cart 🛒",
)  # fmt: skip
EMAILS = (  # (name, subject)
    ("First Onboarding Email", "Welcome"),
    ("Second Onboarding Email", "Three things to try today"),
    ("Win back 1", "We miss you, {FirstName}"),
    ("Renewal reminder", "Your plan renews in 30 days"),
    ("Fair follow-up", "Nice to meet you in Köln!"),
    ("Reçu", "Votre reçu de commande nº 1042"),
    ("お知らせ", "夏の営業時間について"),
    (
        "A/B: long subject",
        "Everything that changed this month, in one email & two minutes – really",
    ),
)
LINKS = (
    "https://example.com/", "https://example.com/pricing?utm_source=autopilot&utm_medium=email",
    "https://example.com/blog/été", "https://example.com/a?b=c&d=%20e#f", "mailto:sales@example.com",
)  # fmt: skip
