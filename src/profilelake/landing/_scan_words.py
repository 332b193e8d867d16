"""The words the compiled scan recognises, by number: event types, identifier types, keys, and some values."""

from typing import Final

from profilelake.semantics.events import EVENT_TYPES

IDENTIFIER_TYPES: Final = (
    "user_id", "email", "anonymous_id", "android.id", "android.idfa", "android.push_token",
    "ios.id", "ios.idfa", "ios.push_token", "ga_client_id", "group_id",
)  # fmt: skip
_KEYS: Final = (
    "messageId", "userId", "anonymousId", "groupId", "previousId", "event", "name", "context",
    "properties", "traits", "integrations", "type", "category", "timestamp", "originalTimestamp",
    "sentAt", "batch", "library", "consent", "device", "ip", "direct", "externalIds", "id",
    "advertisingId", "adTrackingEnabled", "token", "collection", "encoding", "Google Analytics",
    "clientId", "android", "ios", "none", "users", "accounts", "receivedAt",
)  # fmt: skip
WORDS: Final = (*EVENT_TYPES, *IDENTIFIER_TYPES, *_KEYS)
"""The first words of the vocabulary; the keys of custom identifier types follow."""

IDENTIFY, TRACK, PAGE, SCREEN, GROUP, ALIAS = range(len(EVENT_TYPES))
USER_ID = WORDS.index("user_id")
EMAIL = WORDS.index("email")
ANONYMOUS_ID = WORDS.index("anonymous_id")
ANDROID_ID, IOS_ID = WORDS.index("android.id"), WORDS.index("ios.id")
GA_CLIENT_ID, GROUP_ID = WORDS.index("ga_client_id"), WORDS.index("group_id")
MESSAGE_ID_KEY, USER_ID_KEY, ANONYMOUS_ID_KEY = map(WORDS.index, ("messageId", "userId", "anonymousId"))
GROUP_ID_KEY, PREVIOUS_ID_KEY, EVENT_KEY = map(WORDS.index, ("groupId", "previousId", "event"))
NAME_KEY, CONTEXT_KEY, PROPERTIES_KEY = map(WORDS.index, ("name", "context", "properties"))
TRAITS_KEY, INTEGRATIONS_KEY, TYPE_KEY = map(WORDS.index, ("traits", "integrations", "type"))
CATEGORY_KEY, TIMESTAMP_KEY, BATCH_KEY = map(WORDS.index, ("category", "timestamp", "batch"))
ORIGINAL_KEY, SENT_AT_KEY, LIBRARY_KEY = map(WORDS.index, ("originalTimestamp", "sentAt", "library"))
CONSENT_KEY, DEVICE_KEY, IP_KEY = map(WORDS.index, ("consent", "device", "ip"))
DIRECT_KEY, EXTERNAL_KEY, ID_KEY = map(WORDS.index, ("direct", "externalIds", "id"))
ADVERTISING_KEY, TRACKING_KEY, TOKEN_KEY = map(WORDS.index, ("advertisingId", "adTrackingEnabled", "token"))
COLLECTION_KEY, ENCODING_KEY = map(WORDS.index, ("collection", "encoding"))
ANALYTICS_KEY, CLIENT_ID_KEY = map(WORDS.index, ("Google Analytics", "clientId"))
ANDROID, IOS, NONE = map(WORDS.index, ("android", "ios", "none"))
USERS, ACCOUNTS = map(WORDS.index, ("users", "accounts"))
RECEIVED_AT_KEY = WORDS.index("receivedAt")
