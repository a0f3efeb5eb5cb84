package collections

// The collections of hooks/notify.

var notificationsDef = Definition{
	Name: "notifications", Go: "Notification", Owner: "notify", Tenant: true,
	Fields: []Field{
		{Name: "event", Kind: Text, Max: 15, Doc: "id of the event it tells of; empty: several, see count"},
		{Name: "account", Kind: Select, Required: true, Values: []string{"users", "_superusers", "tenants"}, Doc: "collection of whom it is for"},
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "id in that collection"},
		{Name: "channel", Kind: Select, Required: true, Values: []string{"app", "email", "discord", "push"}},
		{Name: "target", Kind: Text, Max: 15, Doc: "row of notification_channels or push_subscriptions; former for a mail to the address before; else empty for app and email"},
		{Name: "template", Kind: Text, Required: true, Max: 64, Doc: "kind of notice, e.g. server.crashed"},
		{Name: "severity", Kind: Select, Required: true, Values: []string{"info", "warning", "critical"}},
		{Name: "subject", Kind: Text, Max: 255},
		{Name: "body", Kind: Text, Max: 4000},
		{Name: "metadata", Kind: JSON, Max: 4 << 10, Doc: "{server, link, org, rows, address}"},
		{Name: "status", Kind: Select, Required: true, Values: []string{"held", "pending", "sent", "failed", "skipped", "gathered"}},
		{Name: "problem", Kind: Text, Max: 300, Doc: "why it failed or was skipped"},
		{Name: "count", Kind: Number, Doc: "how many events it tells of"},
		{Name: "sent_at", Kind: Date},
		{Name: "read_at", Kind: Date, Doc: "of app only"},
		{Name: "unique_key", Kind: Text, Required: true, Max: 128, Doc: "event, recipient, channel and target"},
	},
	Indexes: []Index{
		{Name: "idx_notifications_once", Unique: true, Columns: "unique_key"},
		{Name: "idx_notifications_list", Columns: "user, channel, created"},
		{Name: "idx_notifications_unread", Columns: "user, channel, read_at"},
		{Name: "idx_notifications_burst", Columns: "user, channel, target, template, created"},
		{Name: "idx_notifications_age", Columns: "created"},
		{Name: "idx_notifications_tenant", Columns: "tenant, created"},
	},
}

var notificationPrefs = Definition{
	Name: "notification_prefs", Go: "NotificationPref", Owner: "notify",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "id in users or _superusers"},
		{Name: "kind", Kind: Text, Required: true, Max: 64, Doc: "kind of notice"},
		{Name: "channel", Kind: Select, Required: true, Values: []string{"app", "email", "discord", "push"}},
		{Name: "enabled", Kind: Bool},
	},
	Indexes: []Index{{Name: "idx_notification_prefs_cell", Unique: true, Columns: "user, kind, channel"}},
}

var notificationChannels = Definition{
	Name: "notification_channels", Go: "NotificationChannel", Owner: "notify", Tenant: true,
	Fields: []Field{
		{Name: "user", Kind: Text, Max: 15, Doc: "whose it is; empty: the tenant's"},
		{Name: "kind", Kind: Select, Required: true, Values: []string{"discord"}},
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "url", Kind: Text, Required: true, Max: 2000, Hidden: true, Doc: "sealed: whoever has it can post there"},
		{Name: "url_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "SHA-256, hex; finds the same one again"},
		{Name: "problem", Kind: Text, Max: 300, Doc: "why nothing is sent there any more; empty: it works"},
		{Name: "tested_at", Kind: Date},
		{Name: "used_at", Kind: Date, Doc: "last message that was taken"},
		{Name: "kinds", Kind: JSON, Max: 8 << 10, Doc: "{kind: yes or no} of a tenant's; what is not in it is as the kind says"},
	},
	Indexes: []Index{{Name: "idx_notification_channels_once", Unique: true, Columns: "tenant, user, url_hash"}, {Name: "idx_notification_channels_user", Columns: "user"}},
}

var pushSubscriptions = Definition{
	Name: "push_subscriptions", Go: "PushSubscription", Owner: "notify",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "id in users or _superusers"},
		{Name: "sealed", Kind: Text, Required: true, Max: 4000, Hidden: true, Doc: "endpoint and keys, sealed: whoever has them can send there"},
		{Name: "endpoint_hash", Kind: Text, Required: true, Max: 64, Doc: "SHA-256 of the endpoint, hex"},
		{Name: "device", Kind: Text, Max: 255, Doc: "user agent that subscribed"},
		{Name: "used_at", Kind: Date, Doc: "last message that was taken"},
		{Name: "session", Kind: Text, Max: 15, Doc: "that it was made in, and ends with; empty: its account's token is of none"},
		{Name: "tested_at", Kind: Date},
	},
	Indexes: []Index{{Name: "idx_push_subscriptions_endpoint", Unique: true, Columns: "endpoint_hash"}, {Name: "idx_push_subscriptions_user", Columns: "user"}},
}

var notificationMutes = Definition{
	Name: "notification_mutes", Go: "NotificationMute", Owner: "notify", Tenant: true,
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "id in users"},
		{Name: "server", Kind: Text, Required: true, Max: 15, Doc: "of which the user wants to hear nothing"},
	},
	Indexes: []Index{{Name: "idx_notification_mutes_once", Unique: true, Columns: "user, server"}, {Name: "idx_notification_mutes_server", Columns: "server"}},
}

var pushKeys = Definition{
	Name: "push_keys", Go: "PushKey", Owner: "notify",
	Fields: []Field{
		{Name: "name", Kind: Text, Required: true, Max: 16, Doc: "always vapid"},
		{Name: "public", Kind: Text, Required: true, Max: 128},
		{Name: "private", Kind: Text, Required: true, Max: 1000, Hidden: true, Doc: "sealed"},
	},
	Indexes: []Index{{Name: "idx_push_keys_name", Unique: true, Columns: "name"}},
}
