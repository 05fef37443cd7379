-- Count and sum per minute and page: 50 minutes of 1,000 pages.
-- reads: clicks
-- key: minute, url
SELECT FLOOR(ts TO MINUTE) AS `minute`, url, COUNT(*) AS clicks, SUM(amount) AS total
FROM clicks
GROUP BY FLOOR(ts TO MINUTE), url
